"""``polder backup``, ``polder restore``, ``polder authority offline``: the authority's keys and memory, kept elsewhere."""

from __future__ import annotations

import os
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click

from polder.api.authority_dir import load_roots, load_settings
from polder.api.backup import LEDGER, Contents, make_backup, open_backup, verify
from polder.api.backup import restore as put_back
from polder.api.issuers import open_offline
from polder.cli.answer import answer, common, find_state, read_secret
from polder.model import Refused, Verdict
from polder.settings import ConfigError, make_private, write_atomic
from polder.shell.clock import wall

_PASSWORD = "File with the backup's password (24 characters or more), or - for standard input."  # noqa: S105 - a help text
_KEPT = ("root.key.pem", "root-password", "root.pem", "README")


@click.command()
@click.argument("file")
@click.option("--password-file", required=True, metavar="FILE", help=_PASSWORD)
@common
def backup(file: str, password_file: str, state: str | None, as_json: bool) -> None:
    """Put ledger, issuer keys, roots and settings of the authority into one encrypted FILE, while it serves.

    The root key is not in it: it is off line (`polder authority offline`).
    """
    place = find_state(state)
    settings = load_settings(place, os.environ)
    if settings.database is not None:
        raise ConfigError(
            "authority.toml", "database", "the ledger is in a database of its own: back that up with its tools (pg_dump)"
        )
    password = read_secret(password_file, "backup password")
    data = make_backup(place, place.authority / LEDGER, settings.trust_domain, password, wall(), secrets.token_bytes(28))
    write_atomic(Path(file), data, 0o600)
    contents = open_backup(Path(file).read_bytes(), password)
    text = f"Wrote {file}: {contents.identities} identities, revocation epoch {contents.epoch}, {len(data)} bytes."
    answer(_facts(contents) | {"file": file, "bytes": len(data)}, text, f"polder restore {file} --verify", as_json=as_json)


@click.command()
@click.argument("file")
@click.option("--password-file", required=True, metavar="FILE", help=_PASSWORD)
@click.option("--verify", "only_verify", is_flag=True, help="Open and check everything, and change nothing.")
@click.option("--issuer-password-file", metavar="FILE", help="Password of the issuer's key, if the backup does not hold it.")
@click.option("--replace", is_flag=True, help="Put it in the place of an authority that does not run (kept beside it).")
@common
def restore(
    file: str,
    password_file: str,
    only_verify: bool,
    issuer_password_file: str | None,
    replace: bool,
    state: str | None,
    as_json: bool,
) -> None:
    """Bring the authority back from FILE, or only verify it.

    Revocations from after the backup are asked back from the nodes when the authority starts. Identities that enrolled after the
    backup are unknown to it: they work until their certificates end, and need a new invitation then.
    """
    place = find_state(state)
    password = read_secret(password_file, "backup password")
    issuer_password = read_secret(issuer_password_file, "issuer password") if issuer_password_file else None
    try:
        contents = open_backup(Path(file).read_bytes(), password)
    except FileNotFoundError as error:
        raise ConfigError(file, "", "no such backup") from error
    made = datetime.fromtimestamp(contents.created, UTC).strftime("%Y-%m-%d %H:%M UTC")
    what = f"{contents.trust_domain}, of {made}: {contents.identities} identities, revocation epoch {contents.epoch}"
    if only_verify:
        with tempfile.TemporaryDirectory(prefix="polder-verify-") as scratch:
            verify(contents, Path(scratch), wall(), issuer_password)
        answer(_facts(contents) | {"verified": True}, f"Good: {what}.", f"polder restore {file}", as_json=as_json)
        return
    if _lives(place.authority):
        raise Refused(Verdict.DENIED, f"an authority runs in {place.authority}; stop it, or use another --state directory")
    if place.authority.exists() and not replace:
        raise Refused(Verdict.DENIED, f"an authority is in {place.authority}; add --replace (it is kept beside the restored one)")
    epoch = put_back(contents, place, wall(), issuer_password)
    text = f"Restored {what}. Its revocation epoch is {epoch} now: higher than any node's."
    answer(_facts(contents) | {"restored": True, "epoch": epoch}, text, "polder authority serve", as_json=as_json)


@click.command("offline")
@click.option("--copy-to", metavar="DIR", help="Copy the root key there, and verify the copy.")
@click.option("--verify", "verified", metavar="DIR", help="Verify a copy, and change nothing.")
@click.option("--remove", is_flag=True, help="With --copy-to or --verify: then delete the copy on this machine.")
@click.option("--root-password-file", metavar="FILE", help="Password of the root key, if it is not beside it.")
@common
def offline(
    copy_to: str | None, verified: str | None, remove: bool, root_password_file: str | None, state: str | None, as_json: bool
) -> None:
    """Move the root key to a medium that is kept off line: copy, verify, and remove it here."""
    place = find_state(state)
    if (copy_to is None) == (verified is None):
        raise ConfigError("command line", "", "say --copy-to DIR or --verify DIR, DIR being on the medium")
    target = Path(copy_to or verified or "").absolute()
    if target == place.offline.absolute() or target.is_relative_to(place.root.absolute()):
        raise ConfigError("command line", "copy-to", f"{target} is on this machine's state: name a directory on the medium")
    password = read_secret(root_password_file, "root password") if root_password_file else None
    if copy_to is not None:
        make_private(target)
        for name in _KEPT:
            if (place.offline / name).exists():
                write_atomic(target / name, (place.offline / name).read_bytes(), 0o600)
    root, der = open_offline(target, password)
    if der not in load_roots(place):
        raise Refused(Verdict.FOREIGN, f"the root in {target} is another overlay's ({root.trust_domain})")
    if remove:
        for name in _KEPT:
            (place.offline / name).unlink(missing_ok=True)
        if place.offline.exists():
            place.offline.rmdir()
    here = (place.offline / "root.key.pem").exists()
    text = f"The copy in {target} is good: it opens, and is the root of {root.trust_domain}."
    text += " The root key is still on this machine." if here else " The root key is no longer on this machine."
    following = f"polder authority offline --verify {target} --remove" if here else "keep a second copy elsewhere"
    answer({"copy": str(target), "verified": True, "root_key_here": here}, text, following, as_json=as_json)


def _lives(directory: Path) -> bool:
    import asyncio

    from polder.api.admin import ask

    try:
        asyncio.run(ask(directory / "admin.sock", "status"))
    except (OSError, ValueError):
        return False
    return True


def _facts(contents: Contents) -> dict[str, object]:
    return {
        "trust_domain": contents.trust_domain,
        "created": contents.created,
        "epoch": contents.epoch,
        "identities": contents.identities,
        "files": sorted(contents.files),
    }
