"""``polder init``, ``invite``, ``authority``: the operator's commands on the authority's machine."""

from __future__ import annotations

import os
import secrets
from typing import Any

import click

from polder.api.authority_dir import found, load_authority, load_roots, load_settings, open_ledger
from polder.api.service import invite as make_invitation
from polder.api.tls import new_key
from polder.cli import running
from polder.cli.answer import DURATION, answer, common, find_state, read_secret
from polder.cli.backup import offline
from polder.cli.enrol import write_node_settings
from polder.cli.running import LEVELS
from polder.model import Kind
from polder.settings import AuthoritySettings, ConfigError, StateDir, load
from polder.settings.node import is_wildcard
from polder.settings.quantities import format_duration, parse_host
from polder.shell.clock import chance, wall
from polder.shell.process import Closeable, Life, run
from polder.trust.keys import pin_of
from polder.trust.tokens import Grant

KIND = click.Choice([str(kind) for kind in Kind])


@click.command()
@click.option("--trust-domain", required=True, help="Name of the overlay, such as overlay.example.org; it cannot be changed.")
@click.option("--listen", default="127.0.0.1:7400", show_default=True, help="Where the authority will listen.")
@click.option("--url", help="How members reach it; default: https:// and the --listen address.")
@click.option("--name", help="Enrol this machine as the first node, under this name.")
@click.option("--node-listen", default="127.0.0.1:7443", show_default=True, help="Where that node will listen; others dial it.")
@click.option("--root-password-file", metavar="FILE", help="Password of the root key; default: made, and kept in offline/.")
@click.option(
    "--issuer-password-file", metavar="FILE", help="Password of the issuer's key; default: made, and kept in authority/."
)
@common
def init(
    trust_domain: str,
    listen: str,
    url: str | None,
    name: str | None,
    node_listen: str,
    root_password_file: str | None,
    issuer_password_file: str | None,
    state: str | None,
    as_json: bool,
) -> None:
    """Found an overlay: a root to be kept off line, an issuer, and the authority's memory."""
    place = find_state(state)
    given = {"trust_domain": trust_domain, "listen": listen, "url": url or f"https://{listen}"}
    settings = load(AuthoritySettings, None, os.environ, given)
    if url is None and is_wildcard(settings.listen):
        raise ConfigError("command line", "url", "say how members reach the authority: --url https://192.0.2.1:7400")
    root_password = read_secret(root_password_file, "root password") if root_password_file else None
    issuer_password = read_secret(issuer_password_file, "issuer password") if issuer_password_file else None
    made = found(place, settings, wall(), chance(), new_key, root_password, issuer_password)
    facts: dict[str, Any] = {"trust_domain": trust_domain, "url": made.url, "pin": made.pin, "offline": str(made.offline)}
    text = f"Founded {trust_domain}.\n  URL  {made.url}\n  pin  {made.pin}\n"
    text += f"Move {made.offline} to a medium that you keep off line: it holds the root key, which the authority does not need."
    if name:
        from polder.api.local import enrol_locally  # HTTP is a third of a second that the other commands do not need

        identity, path = enrol_locally(load_authority(place, os.environ, issuer_password), place, name, node_listen)
        write_node_settings(path / "node.toml", node_listen, node_listen)
        facts |= {"node": str(identity.id), "node_directory": str(path)}
        text += f"\nEnrolled this machine as node {name}."
    answer(facts, text, f"polder authority serve{_state_argument(state)}", as_json=as_json)


@click.command()
@click.argument("kind", type=KIND)
@click.argument("name", required=False)
@click.option("--ttl", type=DURATION, default="30m", show_default=True, help="How long the invitation is good.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group of the user; repeat it for more.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A host name of the site; repeat it for more.")
@click.option("--life", type=DURATION, help="Life of its certificates, if not as usual for the kind.")
@click.option("--reinstate", is_flag=True, help="Invite an identity again that was revoked; its old keys stay revoked.")
@common
def invite(
    kind: str,
    name: str | None,
    ttl: float,
    groups: tuple[str, ...],
    hosts: tuple[str, ...],
    life: float | None,
    reinstate: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Make a one-use token for a KIND called NAME (a made-up name if none is given).

    The token alone goes to standard output, once; what to do with it goes to standard error.
    """
    place = find_state(state)
    settings = load_settings(place, os.environ)
    name = name or f"{kind}-{secrets.token_hex(3)}"
    grant = Grant(Kind(kind), name, groups, tuple(parse_host(host) for host in hosts), life)
    ledger = open_ledger(place, settings)
    try:
        made = make_invitation(ledger, grant, settings.trust_domain, wall(), ttl, chance(), reinstate=reinstate)
    finally:
        ledger.close()
    pin = pin_of(load_roots(place)[0])
    verb = "join" if kind == "node" else "enroll"
    command = f"polder {verb} {settings.url} --pin {pin} --token-file -"
    if as_json:
        facts = {
            "token": made.token,
            "identity": str(made.id),
            "expires_at": int(made.expires_at),
            "url": settings.url,
            "pin": pin,
        }
        answer(facts | {"command": command}, "", command, as_json=True)
        return
    click.echo(made.token)
    click.echo(
        f"Invited {made.id}, for {format_duration(ttl)}. Send the token over a private channel; on that machine:", err=True
    )
    click.echo(f"  {command}", err=True)


@click.group()
def authority() -> None:
    """Serve enrolment and renewal; list who enrolled."""


@authority.command()
@click.option("--issuer-password-file", metavar="FILE", help="Password of the issuer's key, if it is not in authority/.")
@click.option("--log-level", type=LEVELS, help="Instead of log_level in authority.toml.")
@common
def serve(issuer_password_file: str | None, log_level: str | None, state: str | None, as_json: bool) -> int:
    """Run the authority until it is told to stop. With --json a line on standard output says where it listens."""
    from polder.api.running import AuthorityShell

    place = find_state(state)
    password = read_secret(issuer_password_file, "issuer password") if issuer_password_file else None
    loaded = load_authority(place, os.environ, password)

    def ready(shell: Closeable) -> None:
        assert isinstance(shell, AuthorityShell)
        facts = {"address": shell.address, "url": loaded.settings.url, "pin": loaded.pin}
        text = f"The authority of {loaded.settings.trust_domain} listens at {shell.address}."
        answer(facts, text, f"polder invite node{_state_argument(state)}", as_json=as_json)

    async def start(life: Life[AuthoritySettings]) -> Closeable:
        return await AuthorityShell.start(loaded, place, life=life)

    return run(lambda: load_settings(place, os.environ, running.log_level(log_level)), start, ready)


@authority.command()
@common
def reload(state: str | None, as_json: bool) -> int:
    """Have the running authority read authority.toml and conf.d/ again; nothing is interrupted.

    A file with a mistake is refused (exit status 2) and the old settings stay. Exit status 3: something that changed waits for
    `polder authority upgrade`.
    """
    return running.reload(find_state(state).authority / "admin.sock", "authority", as_json=as_json)


@authority.command()
@common
def upgrade(state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running authority; no request is refused meanwhile."""
    running.upgrade(find_state(state).authority / "admin.sock", as_json=as_json)


authority.add_command(offline)


@authority.command("openapi")
def print_openapi() -> None:
    """Print the description of the authority's HTTP interface (OpenAPI 3.1)."""
    from polder.api import openapi

    click.echo(openapi.document())


@authority.command("list")
@common
def list_identities(state: str | None, as_json: bool) -> None:
    """List everybody who enrolled; with --json also the SHA-256 of their keys, as `polder revoke key` wants it."""
    place = find_state(state)
    rows = _rows(place)
    facts = {"identities": rows}
    lines = [f"{'revoked' if row['revoked'] else 'valid':8} {row['identity']}  {row['detail']}".rstrip() for row in rows]
    answer(facts, "\n".join(lines) or "Nobody has enrolled yet.", "polder invite node|user|site|admin NAME", as_json=as_json)


def _rows(place: StateDir) -> list[dict[str, Any]]:
    ledger = open_ledger(place, load_settings(place, os.environ))
    try:
        known, keys = ledger.identities(), ledger.keys()
    finally:
        ledger.close()
    return [
        {
            "identity": str(entry.id),
            "revoked": gone,
            "detail": " ".join(filter(None, (entry.address, ",".join(entry.groups), ",".join(entry.hosts)))),
            "ring_id": entry.ring_id.hex() if entry.ring_id else None,
            "keys": [key.hex() for key in keys.get(str(entry.id), ())],
        }
        for entry, gone in known
    ]


def _state_argument(given: str | None) -> str:
    return f" --state {given}" if given else ""
