"""Everything that the doctor looks at, part by part."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
from cryptography import x509

from polder.api.admin import ask
from polder.api.tls import blind_tls
from polder.doctor import process, reach
from polder.doctor.finding import Finding
from polder.host import HostError, HostHelper
from polder.host.abilities import look
from polder.perimeter import from_json
from polder.settings import ConfigError, NodeSettings, SiteSettings, StateDir, load
from polder.settings.identity import IdentityDir
from polder.settings.quantities import format_duration
from polder.shell.clock import wall
from polder.site.outside import accepting, look_at, outer_addresses

_SKEW_S = 60.0
"""Certificates are backdated by minutes at most, and revocation lists count seconds."""
_PATIENCE_S = 5.0
_LIST_AGE_S = 120


async def examine(state: StateDir) -> list[Finding]:
    """All findings about what is set up in ``state``, and about the machine."""
    identities = [path.parent for path in sorted(state.root.glob("*/identity.toml"))]
    identities += [path.parent for path in sorted(state.root.glob("*/*/identity.toml"))]
    findings = [*await asyncio.to_thread(lambda: list(_machine(state)))]
    asked: set[str] = set()
    for directory in identities:
        name = "/".join(directory.relative_to(state.root).parts)
        try:
            identity = IdentityDir.load(directory)
        except ConfigError as error:
            findings.append(Finding(name, False, str(error), f"enrol {name} again"))
            continue
        findings += [*_identity(name, directory, identity)]
        if identity.authority_url not in asked:
            asked.add(identity.authority_url)
            findings.append(await _clock(identity.authority_url))
        if identity.id.kind in ("node", "site"):
            findings += await _part(name, directory, identity)
        elif identity.id.kind == "user":
            findings += process.look(name, directory)
    findings += _root_key(state)
    if not identities:
        findings.append(
            Finding("identities", None, f"nobody is enrolled in {state.root}", "polder init, polder join or polder enroll")
        )
    return findings


def _machine(state: StateDir) -> Iterator[Finding]:
    """Kernel and programs; wrong only where an agent here needs them and this user would see them."""
    sockets = _helpers(state)
    names = {"kernel_gre": "GRE devices of the kernel", "tun": "TUN devices", "nft": "nftables", "ip": "iproute2"}
    for name, missing in look().missing.items():
        if missing is None:
            yield Finding(names[name], True, "there")
        elif name == "kernel_gre":
            yield Finding(names[name], None, "not there; Polder's own endpoint carries instead")
        else:
            needed = bool(sockets) and os.geteuid() == 0
            yield Finding(names[name], False if needed else None, missing, missing if needed else "")
    yield from _kernel()
    for socket in sorted(sockets):
        try:
            HostHelper.reach(socket)
        except HostError as error:
            yield Finding(
                "host helper", False, error.why, f"as root: polder host-helper --socket {socket} --allow-uid {os.getuid()}"
            )
        else:
            yield Finding("host helper", True, f"answers at {socket}")


def _kernel() -> Iterator[Finding]:
    """Knobs of the kernel that matter in a flood; ``ip-sysctl`` in the kernel's documentation."""
    wanted = (
        ("net/ipv4/tcp_syncookies", 1, "SYN cookies", "without them a SYN flood fills the backlog"),
        ("net/core/somaxconn", 1024, "length of the accept queue", "connections beyond it are dropped while the process is busy"),
    )
    for path, least, what, why in wanted:
        try:
            value = int(Path("/proc/sys", path).read_text())
        except (OSError, ValueError):
            continue  # a container may hide it
        name = path.replace("/", ".")
        good = value >= least
        yield Finding(what, good, f"{name} = {value}{'' if good else f': {why}'}", "" if good else f"sysctl -w {name}={least}")


def _helpers(state: StateDir) -> set[Path]:
    """Sockets of the helpers that agents here use; a settings file that cannot be read is reported elsewhere."""
    found = set()
    files: list[tuple[type[NodeSettings] | type[SiteSettings], Path]] = [(NodeSettings, state.node / "node.toml")]
    files += [(SiteSettings, file) for file in state.root.glob("site/*/site.toml")]
    for model, file in files:
        with contextlib.suppress(ConfigError):
            helper = load(model, file, os.environ).host_helper if file.exists() else None
            found |= {Path(helper)} if helper else set()
    return found


def _root_key(state: StateDir) -> Iterator[Finding]:
    """The root key founds the overlay: on a machine with a network it can be stolen through the network."""
    if not state.authority.is_dir():
        return
    here = sorted(state.offline.glob("*key*")) if state.offline.is_dir() else []
    if here:
        what = f"{here[0]} is still on this machine"
        yield Finding(
            "root key", False, what, "`polder authority offline --copy-to DIR --remove`, DIR on a medium that you lock away"
        )
    else:
        yield Finding("root key", True, "not on this machine")


def _identity(name: str, directory: Path, identity: IdentityDir) -> Iterator[Finding]:
    key = directory / "key.pem"
    mode = stat.S_IMODE(key.stat().st_mode)
    yield Finding(f"{name} key", not mode & 0o077, f"mode {mode:04o}", f"chmod 600 {key}" if mode & 0o077 else "")
    leaf = x509.load_der_x509_certificate(identity.chain[0])
    left = leaf.not_valid_after_utc.timestamp() - wall()
    life = leaf.not_valid_after_utc.timestamp() - leaf.not_valid_before_utc.timestamp()
    if left <= 0:
        cure = "start its process: it renews also after expiry; if the authority refuses, enrol again"
        yield Finding(f"{name} certificate", False, f"expired {format_duration(-left)} ago", cure)
    elif left < life / 6:
        cure = "renewal is due at two thirds: look into the log of its process, and whether the authority is up"
        yield Finding(f"{name} certificate", False, f"ends in {format_duration(left)}, of {format_duration(life)}", cure)
    else:
        yield Finding(f"{name} certificate", True, f"valid for {format_duration(left)}")


async def _clock(url: str) -> Finding:
    """Compare with the Date header of the authority; the answer is not believed for anything else."""
    timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url.rstrip('/')}/v1/root", ssl=blind_tls()) as reply,
        ):
            skew = wall() - parsedate_to_datetime(reply.headers["Date"]).timestamp()
    except (aiohttp.ClientError, OSError, TimeoutError, KeyError, ValueError) as error:
        why = str(error) or type(error).__name__
        return Finding(
            "authority", False, f"{url} does not answer: {why}", "start `polder authority serve`, or open the way to it"
        )
    if abs(skew) > _SKEW_S:
        side = "ahead of" if skew > 0 else "behind"
        return Finding(
            "clock", False, f"{abs(skew):.0f} s {side} the authority's", "run a time daemon (chrony, systemd-timesyncd)"
        )
    return Finding("clock", True, f"within {max(2.0, abs(skew)):.0f} s of the authority's")


async def _part(name: str, directory: Path, identity: IdentityDir) -> list[Finding]:
    kind = name.partition("/")[0]
    findings = [*await _running(name, directory), *process.look(name, directory)]
    try:
        if kind == "node":
            findings += await _node(name, load(NodeSettings, directory / "node.toml", os.environ))
        elif (directory / "site.toml").exists():
            settings = load(SiteSettings, directory / "site.toml", os.environ)
            findings += await _site(name, directory, settings)
            findings += await reach.from_outside(name, identity, settings)
        else:
            findings.append(Finding(name, False, "not protected yet", f"polder protect URL --name {directory.name}"))
    except ConfigError as error:
        findings.append(Finding(f"{name} settings", False, str(error), f"polder config check {error.source}"))
    return findings


async def _running(name: str, directory: Path) -> list[Finding]:
    command = "polder node run" if name == "node" else f"polder site run {directory.name}"
    try:
        status = await ask(directory / "admin.sock", "status")
    except (OSError, ValueError) as error:
        return [Finding(f"{name} process", False, f"does not answer: {error}", command)]
    findings = [Finding(f"{name} process", True, "runs")]
    if "joined" in status:
        cure = "open the way to one other node at least: their addresses stand in identity.toml"
        joined = bool(status["joined"])
        findings.append(Finding(f"{name} ring", joined, "in it" if joined else "not joined yet", "" if joined else cure))
    if "revocation_age_s" in status:
        findings.append(_list_age(name, int(status["revocation_age_s"])))
    if status.get("serving") == 0:
        findings.append(Finding(f"{name} servlets", False, "none serves: nobody can read the site", "look into the agent's log"))
    return findings


def _list_age(name: str, age: int) -> Finding:
    """The authority signs its list anew every few seconds, and nodes pass it on: an old one means that neither is heard."""
    what = "none was heard of yet" if age < 0 else f"{format_duration(age)} old"
    if 0 <= age <= _LIST_AGE_S:
        return Finding(f"{name} revocation list", True, what)
    return Finding(f"{name} revocation list", False, what, "start the authority, or open the way to it or to another node")


async def _node(name: str, settings: NodeSettings) -> list[Finding]:
    findings = [*await reach.metrics(name, settings)]
    address = settings.advertise or settings.listen[0]
    host, _, port = address.rpartition(":")
    if await accepting([host.strip("[]")], int(port)):
        return [*findings, Finding(f"{name} port", True, f"{address} accepts connections from here")]
    what = f"{address} does not accept connections, not even from here"
    return [*findings, Finding(f"{name} port", False, what, "start the node; open the port")]


async def _site(name: str, directory: Path, settings: SiteSettings) -> list[Finding]:
    origin = await look_at(settings.origin)
    findings = [
        Finding(f"{name} origin", False, f"{origin.url}: {origin.trouble}", "start the web server, or mend `origin` in site.toml")
        if origin.trouble
        else Finding(f"{name} origin", True, f"{origin.url} answers {origin.status}")
    ]
    port = int(settings.port_map()[0][1].rpartition(":")[2])
    here = await accepting(outer_addresses(), port)
    cure = f"bind the origin to 127.0.0.1, or shut {', '.join(here)} with `polder filter apply`" if here else ""
    what = f"the origin also answers at {', '.join(here)} port {port}" if here else "only inside this machine"
    findings.append(Finding(f"{name} direct access", not here, what, cure))
    if settings.edge is not None:
        findings += _plan(name, directory, settings)
    return findings


def _plan(name: str, directory: Path, settings: SiteSettings) -> list[Finding]:
    file = directory / "filter.json"
    try:
        plan = from_json(file.read_bytes())
    except FileNotFoundError:
        return [Finding(f"{name} filter", False, "the agent has written no plan yet", f"polder site run {directory.name}")]
    except ValueError as error:
        return [Finding(f"{name} filter", False, str(error), f"remove {file}; the agent writes it again")]
    if settings.filter_helper is None:
        what = f"plan {plan.version} is written; whoever filters must apply it after every rotation"
        return [Finding(f"{name} filter", None, what, f"polder filter apply {directory.name}, or set filter_helper in site.toml")]
    return [
        Finding(
            f"{name} filter",
            True,
            f"plan {plan.version}, {len(plan.pairs)} pairs, kept in force through {settings.filter_helper}",
        )
    ]
