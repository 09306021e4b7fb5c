"""Keys and credentials in files, and what an ISP's configuration makes of them."""

from __future__ import annotations

from pathlib import Path

from polder.bandex import Desk, Isp, Terms, Trust
from polder.bandex.writing import from_file
from polder.clearing.till import Till, open_spent
from polder.keynote import Checker, KeyNoteError
from polder.keynote.signing import PrivateKey, decode_private, identifier, read_key
from polder.settings import ConfigError
from polder.settings.money import IspSettings

TILL = "till.sqlite3"


def read_private(path: Path) -> PrivateKey:
    """The private KeyNote key in a file of `polder keynote keygen`; raises ``ConfigError``."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(str(path), "", "others can read this key; `chmod 600` it, and make a new one if somebody may have")
        return decode_private(read_key(path.read_text()))
    except (OSError, UnicodeDecodeError, KeyNoteError) as error:
        how = f"polder keynote keygen ed25519-base64: 256 {path.with_suffix('.pub')} {path}"
        raise ConfigError(str(path), "", f"no private KeyNote key can be read here ({error}); make one with `{how}`") from error


def read_public(text: str) -> str:
    """A KeyNote key given as such (``ed25519-base64:…``) or as a file that holds one; raises ``ConfigError``."""
    if not Path(text).is_file():
        return text
    try:
        return read_key(Path(text).read_text())
    except (OSError, UnicodeDecodeError, KeyNoteError) as error:
        raise ConfigError(text, "", f"no KeyNote key can be read here: {error}") from error


def read_credentials(path: Path) -> list[tuple[str, Terms]]:
    """The credentials in a file; raises ``ConfigError`` when it cannot be read, ``Refused`` when they are none."""
    try:
        return from_file(path.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"the credentials cannot be read: {error}") from error


def isp_of(settings: IspSettings, key: str) -> Isp:
    """Who sells, as a desk wants it."""
    routes = {name: route.pairs() for name, route in settings.routes.items()}
    return Isp(settings.name, key, routes, settings.most_life)


def open_desk(settings: IspSettings, directory: Path, checker: Checker | None = None) -> tuple[Desk, Till]:
    """An ISP's desk over its till in ``directory``: for its policy decision point. Close the till in the end. ``checker`` has the
    limits for what payers send.

    Raises ``ConfigError``, or ``OSError`` when another process takes checks already.
    """
    key = identifier(read_private(directory / settings.key_file))
    till = open_spent(directory / TILL, settings.most_checks)
    return Desk(isp_of(settings, key), Trust(settings.trusted), till, checker), till
