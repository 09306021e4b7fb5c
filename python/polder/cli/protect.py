"""``polder protect``: check a site's origin, look whether it can be reached past the overlay, write ``site.toml``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from polder.cli.answer import answer, common, find_state
from polder.host.client import SOCKET
from polder.model import PathMode, Refused, Verdict
from polder.settings import ConfigError, SiteSettings, load, write_atomic
from polder.settings.identity import IdentityDir
from polder.settings.quantities import parse_host
from polder.settings.toml import dump
from polder.site.outside import Origin, Seen, accepting, look_at, outer_addresses, seen_from
from polder.trust import read_identity

_HEADING = "This protected site. Every knob: `polder config schema site`. Drop-ins: conf.d/*.toml"
_ASKED_NODES = 2


@click.command()
@click.argument("url")
@click.option("--name", help="The site's name in the overlay; default: the only site enrolled here.")
@click.option(
    "--allow", multiple=True, metavar="RULE", help="Who may: user:NAME, group:NAME, anyone; may be repeated. Default: nobody."
)
@click.option("--deny", multiple=True, metavar="RULE", help="Who may not, whatever --allow says.")
@click.option("--host", "hosts", multiple=True, help="Host name; default: all those in the site's certificate.")
@click.option(
    "--transport", type=click.Choice(["dialout", "gre"]), default="dialout", show_default=True, help="Through the perimeter."
)
@click.option("--edge", metavar="ADDR", help="Outer IP address of the site's gateway, which the filter protects; needed for gre.")
@click.option("--mode", type=click.Choice([str(mode) for mode in PathMode]), default=str(PathMode.BEACON), show_default=True)
@click.option("--host-helper", metavar="SOCKET", help=f"Host helper on this machine (gre); default: {SOCKET}.")
@click.option("--probe/--no-probe", default=True, help="Ask two nodes whether they reach the site directly.")
@click.option("--replace", is_flag=True, help="Overwrite site.toml.")
@common
def protect(
    url: str,
    name: str | None,
    probe: bool,
    replace: bool,
    host_helper: str | None,
    state: str | None,
    as_json: bool,
    **knobs: Any,
) -> int:
    """Put the web server at URL behind the overlay.

    Exit status 1: the origin does not answer; site.toml is not written.
    """
    directory = find_state(state).only("site", name)
    identity = IdentityDir.load(directory)
    file = directory / "site.toml"
    if file.exists() and not replace:
        raise ConfigError(str(file), "", "this site is protected already: change it there, or say --replace")
    certified = read_identity(x509.load_der_x509_certificate(identity.chain[0])).hosts
    wanted = _wanted(url, identity.id.name, certified, host_helper, knobs)
    settings = load(SiteSettings, None, {}, wanted)
    looked = asyncio.run(_look(settings, identity, (settings.hosts or certified)[:1], probe))
    origin: Origin = looked["origin"]
    if origin.status is None:
        raise Refused(
            Verdict.UNKNOWN, f"the origin {origin.url} does not answer: {origin.trouble}; start it, or mend the URL", retry=True
        )
    write_atomic(file, dump(wanted, _HEADING).encode())
    warnings = _warnings(settings, looked)
    facts = {
        "site": settings.name,
        "origin": {"url": origin.url, "status": origin.status, "server": origin.server, "tls": origin.tls},
        "hosts": list(settings.hosts or certified),
        "transport": settings.transport,
        "reachable_at": looked["here"],
        "reachable_from_nodes": [{"address": seen.address, "ports": list(seen.open)} for seen in looked["seen"] if seen.open],
        "probe_trouble": [seen.trouble for seen in looked["seen"] if seen.trouble],
        "probed_by": sum(seen.trouble is None for seen in looked["seen"]),
        "warnings": warnings,
        "settings": str(file),
    }
    answer(facts, _text(facts, origin), _next(settings, directory), as_json=as_json)
    return 0


def _wanted(url: str, name: str, certified: tuple[str, ...], host_helper: str | None, knobs: dict[str, Any]) -> dict[str, Any]:
    hosts = [parse_host(host) for host in knobs["hosts"]]
    if foreign := [host for host in hosts if host not in certified]:
        raise Refused(
            Verdict.DENIED,
            f"{', '.join(foreign)}: not in this site's certificate, which has {', '.join(certified) or 'no host'}; "
            f"ask the operator for `polder invite site {name} --host {foreign[0]}`",
        )
    gre = knobs["transport"] == "gre"
    return {
        "name": name,
        "origin": url.rstrip("/"),
        "allow": list(knobs["allow"]),
        **({"deny": list(knobs["deny"])} if knobs["deny"] else {}),
        **({"hosts": hosts} if hosts else {}),
        "mode": knobs["mode"],
        "transport": knobs["transport"],
        **({"edge": knobs["edge"]} if knobs["edge"] else {}),
        **({"host_helper": host_helper or str(SOCKET)} if gre else {}),
    }


async def _look(settings: SiteSettings, identity: IdentityDir, host: tuple[str, ...], probe: bool) -> dict[str, Any]:
    """The origin, where it answers on this machine, and what nodes see."""
    port = int(settings.port_map()[0][1].rpartition(":")[2])
    origin = await look_at(settings.origin, *host)
    here = await accepting(outer_addresses(), port) if origin.status is not None else []
    seen: list[Seen] = []
    if probe and origin.status is not None and identity.members:
        ports = tuple(dict.fromkeys([port, *(asked for asked, _ in settings.port_map())]))[:8]
        seen = await seen_from(identity, identity.members[:_ASKED_NODES], ports)
    return {"origin": origin, "here": here, "seen": seen, "port": port}


def _warnings(settings: SiteSettings, looked: dict[str, Any]) -> list[str]:
    found = []
    origin: Origin = looked["origin"]
    if origin.trouble:
        found.append(f"The origin is not well: {origin.trouble}.")
    if looked["here"]:
        where = ", ".join(looked["here"])
        found.append(
            f"The origin also answers at {where} port {looked['port']}: whoever learns the address floods it past the overlay. "
            "Bind it to 127.0.0.1, or put the filter in front."
        )
    for seen in looked["seen"]:
        if seen.open:
            ports = ", ".join(map(str, seen.open))
            found.append(
                f"From outside, {seen.address} accepts connections at port {ports}: the perimeter is open. Apply the filter."
            )
    if not settings.allow:
        found.append("Nobody may read this site yet: say --allow group:NAME, user:NAME or anyone.")
    if settings.transport == "dialout" and settings.edge is None:
        found.append(
            "No --edge: the filter protects no address. Shut inbound traffic at your provider; the site only connects out."
        )
    return found


def _text(facts: dict[str, Any], origin: Origin) -> str:
    said = f"{origin.status}{f', {origin.server}' if origin.server else ''}{', TLS' if origin.tls else ''}"
    lines = [f"Site {facts['site']} ({', '.join(facts['hosts'])}): origin {origin.url} answers {said}."]
    if facts["probed_by"] and not facts["reachable_from_nodes"]:
        lines.append(f"{facts['probed_by']} nodes tried to reach it directly and could not.")
    lines += [f"A node did not look: {trouble}" for trouble in facts["probe_trouble"]]
    lines += [f"Warning: {warning}" for warning in facts["warnings"]]
    return "\n".join([*lines, f"Written: {facts['settings']}"])


def _next(settings: SiteSettings, directory: Path) -> str:
    start = f"polder site run {settings.name}"
    if settings.transport == "gre" and not Path(settings.host_helper or SOCKET).exists():
        start = f"polder host-helper --allow-uid {os.getuid()} (as root), then {start}"
    if settings.edge is None:
        return start
    return f"{start}, then polder filter plan {settings.name} and polder filter apply {settings.name} --rollback-after 60s"
