"""``polder client profile``: files for a browser without a forwarder."""

from __future__ import annotations

from pathlib import Path

import click

from polder.cli import running
from polder.cli.answer import answer, common, find_state, read_secret
from polder.client.profile import access_points, make_profile
from polder.settings import ConfigError, make_private, write_atomic
from polder.settings.identity import IdentityDir
from polder.settings.quantities import parse_host
from polder.shell.clock import chance
from polder.trust.keys import make_password


@click.group()
def client() -> None:
    """Profiles for browsers without a forwarder; reload or upgrade a forwarder that runs."""


@client.command()
@click.option("--user", help="Whose forwarder; default: the only user enrolled here.")
@common
def reload(user: str | None, state: str | None, as_json: bool) -> int:
    """Have the running forwarder read client.toml and conf.d/ again; nothing is interrupted.

    A file with a mistake is refused (exit status 2) and the old settings stay.
    """
    return running.reload(find_state(state).only("user", user) / "admin.sock", "client", as_json=as_json)


@client.command()
@click.option("--user", help="Whose forwarder; default: the only user enrolled here.")
@common
def upgrade(user: str | None, state: str | None, as_json: bool) -> None:
    """Have the program that is installed now take over from the running forwarder; nothing is interrupted."""
    running.upgrade(find_state(state).only("user", user) / "admin.sock", as_json=as_json)


@client.command()
@click.option("--for", "user", metavar="NAME", help="Whose profile; default: the only user enrolled here.")
@click.option("--access-point", "points", multiple=True, metavar="HOST:PORT", help="A node to use as proxy; repeat it for more.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="A protected name; default: all that the authority named.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory to make.")
@click.option("--password-file", metavar="FILE", help="Password of the .p12; default: made, and shown once.")
@click.option("--compatible", is_flag=True, help="Old encryption of the .p12, for key chains that read no other.")
@common
def profile(
    user: str | None,
    points: tuple[str, ...],
    hosts: tuple[str, ...],
    out: Path,
    password_file: str | None,
    compatible: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Write certificate (.p12), PAC file and instructions for a browser that speaks TLS to proxies."""
    identity = IdentityDir.load(find_state(state).only("user", user))
    if out.exists() and any(out.iterdir()):
        raise ConfigError(str(out), "", "is not empty; name a new directory")
    password = read_secret(password_file, "password") if password_file else make_password(chance())
    names = tuple(parse_host(host) for host in hosts) or identity.hosts
    made = make_profile(identity, access_points(identity, map(_point, points)), names, password, compatible=compatible)
    make_private(out)
    for name, data in made.files.items():
        write_atomic(out / name, data, 0o600 if name in made.secret else 0o644)
    facts = {"directory": str(out), "files": sorted(made.files), "not_after": made.not_after}
    text = f"Wrote {', '.join(sorted(made.files))} to {out}."
    if password_file is None:
        facts["password"] = password
        text += f"\nPassword of the .p12, shown only now: {password}"
    answer(facts, text, f"follow {out / 'README.txt'}", as_json=as_json)


def _point(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536 or not host or not host.isascii() or set(host) & set(' ;"\\'):
        raise ConfigError("command line", "access-point", f"{text!r} is not host:port")
    return text.lower()
