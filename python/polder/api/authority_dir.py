"""The authority on disk.

``authority/``: ``authority.toml``, ``root.pem``, ``issuer.pem``, ``issuer.key.pem`` (encrypted), ``issuer-password`` (0600,
unless it comes from elsewhere), ``authority.sqlite3``. ``offline/``: ``root.key.pem`` (encrypted), ``root-password``,
``root.pem``, to be moved to a medium that is kept off line. Founding makes both beside their places and renames them: a crash
leaves an authority or none.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from polder.api.issuers import Issuers, adopt_first, load_issuers
from polder.model import Refused, Verdict
from polder.settings import AuthoritySettings, ConfigError, StateDir, load, make_private, write_atomic
from polder.settings.identity import pem_blocks, replace_directory
from polder.settings.toml import dump
from polder.shell.clock import wall
from polder.store import Ledger, open_database, sqlite_url
from polder.trust.authority import domain_of, make_issuer, make_root
from polder.trust.keys import key_to_pem, make_password, pin_of

CREDENTIAL = "polder-issuer-password"
"""Name of the systemd credential (``LoadCredential=``) that opens the issuer's key."""

_README = """This directory holds the root key of the overlay {domain}.

Move it, whole, to a medium that you keep off line, and keep a copy elsewhere. The authority does not need it to run: only
`polder rotate issuer` does, once in two years or when the issuer's key may have been stolen. Whoever has root.key.pem and
root-password can admit anybody to the overlay; whoever has lost them must found it anew within the issuer's two years.
"""


@dataclass(frozen=True)
class Founded:
    """An overlay has come into being."""

    trust_domain: str
    url: str
    pin: str
    offline: Path


@dataclass(frozen=True)
class Authority:
    """An authority that can be served. Close ``ledger`` at the end."""

    issuers: Issuers
    roots: tuple[bytes, ...]
    settings: AuthoritySettings
    ledger: Ledger
    directory: Path
    password: str = field(repr=False)

    def load_issuers(self) -> Issuers:
        """The issuers as the ledger has them now: a rotation may have taken a step."""
        return load_issuers(self.directory, self.ledger, self.settings.trust_domain, self.password)

    @property
    def pin(self) -> str:
        """What invitations carry to recognise this authority."""
        return pin_of(self.roots[0])


def found(
    state: StateDir,
    settings: AuthoritySettings,
    now: float,
    rng: random.Random,
    make_key: Callable[[], ec.EllipticCurvePrivateKey],
    root_password: str | None = None,
    issuer_password: str | None = None,
) -> Founded:
    """Make root, issuer, first beacon secret and database; raises ``Refused`` when an authority is here already.

    Passwords that are given are not written anywhere; others are made and kept in files of mode 0600.
    """
    if state.authority.exists():
        raise Refused(Verdict.DENIED, f"an overlay was founded here already ({state.authority}); use another --state directory")
    root_key, issuer_key = make_key(), make_key()
    root = make_root(root_key, settings.trust_domain, now, rng)
    issuer = make_issuer(root_key, root, issuer_key, now, rng)
    offline, online = _fresh(state.offline), _fresh(state.authority)
    _write_key(offline, "root", root_key, root_password, rng)
    write_atomic(offline / "root.pem", root.public_bytes(Encoding.PEM))
    write_atomic(offline / "README", _README.format(domain=settings.trust_domain).encode())
    _write_key(online, "issuer", issuer_key, issuer_password, rng)
    write_atomic(online / "root.pem", root.public_bytes(Encoding.PEM))
    write_atomic(online / "issuer.pem", issuer.certificate.public_bytes(Encoding.PEM))
    heading = "The authority. Every knob: `polder config schema authority`. Drop-ins: conf.d/*.toml"
    write_atomic(online / "authority.toml", dump(settings.model_dump(exclude_unset=True), heading).encode())
    ledger = Ledger(open_database(settings.database or sqlite_url(online / "authority.sqlite3")), settings.trust_domain)
    ledger.add_secret(rng.getrandbits(256).to_bytes(32, "big"), now)
    ledger.close()
    replace_directory(offline, state.offline)
    replace_directory(online, state.authority)
    return Founded(settings.trust_domain, settings.url, pin_of(root.public_bytes(Encoding.DER)), state.offline)


def load_settings(state: StateDir, env: Mapping[str, str], given: Mapping[str, Any] | None = None) -> AuthoritySettings:
    """The authority's settings, ``given`` (command line) last; raises ``ConfigError`` when none was founded here."""
    if not state.authority.exists():
        raise ConfigError(str(state.root), "", "no authority here; found one with `polder init --trust-domain NAME`")
    return load(AuthoritySettings, state.authority / "authority.toml", env, given)


def open_ledger(state: StateDir, settings: AuthoritySettings) -> Ledger:
    """The authority's memory, without its keys: enough to invite and to revoke."""
    url = settings.database or sqlite_url(state.authority / "authority.sqlite3")
    return Ledger(open_database(url), settings.trust_domain)


def load_roots(state: StateDir) -> tuple[bytes, ...]:
    """The roots that members pin, DER, newest first."""
    return pem_blocks(state.authority / "root.pem", "CERTIFICATE")


def load_authority(state: StateDir, env: Mapping[str, str], password: str | None = None) -> Authority:
    """Everything that ``polder authority serve`` needs; raises ``ConfigError`` or ``Refused``."""
    settings = load_settings(state, env)
    directory = state.authority
    first = next(iter(pem_blocks(directory / "root.pem", "CERTIFICATE")))
    if (domain := domain_of(x509.load_der_x509_certificate(first))) != settings.trust_domain:
        raise ConfigError(str(directory), "trust_domain", f"the root is of {domain}; the name cannot be changed")
    password = password or issuer_password(directory, env)
    ledger = open_ledger(state, settings)
    try:
        adopt_first(directory, ledger, wall())
        issuers = load_issuers(directory, ledger, domain, password)
    except BaseException:
        ledger.close()
        raise
    return Authority(issuers, load_roots(state), settings, ledger, directory, password)


def issuer_password(directory: Path, env: Mapping[str, str]) -> str:
    """What opens the issuers' keys: a systemd credential, or the file beside them; raises ``ConfigError``."""
    credentials = env.get("CREDENTIALS_DIRECTORY")
    places = [Path(credentials) / CREDENTIAL] if credentials else []
    for file in (*places, directory / "issuer-password"):
        if file.exists():
            return file.read_text(encoding="utf-8").strip()
    why = f"no password for the issuer's key: give --issuer-password-file or the systemd credential {CREDENTIAL}"
    raise ConfigError(str(directory), "", why)


def _write_key(directory: Path, name: str, key: ec.EllipticCurvePrivateKey, password: str | None, rng: random.Random) -> None:
    if password is None:
        password = make_password(rng)
        write_atomic(directory / f"{name}-password", f"{password}\n".encode(), 0o600)
    write_atomic(directory / f"{name}.key.pem", key_to_pem(key, password), 0o600)


def _fresh(final: Path) -> Path:
    """An empty private directory beside ``final``; what an interrupted founding left there is no authority and goes."""
    new = final.with_name(f"{final.name}.new")
    if new.exists():
        shutil.rmtree(new)
    make_private(new)
    return new
