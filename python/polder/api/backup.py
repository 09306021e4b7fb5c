"""Backups of the authority: one encrypted file with ledger, issuers' keys, roots and settings.

Format: a line ``POLDER-BACKUP-1``, a line of JSON (the header), then AES-256-GCM (NIST SP 800-38D) of a tar archive, with both lines as
associated data; the key is scrypt (RFC 7914) of the password. The archive holds ``manifest.json`` with the SHA-256 of every other
file, ``authority.sqlite3`` as SQLite's own backup made it while the authority was serving, and the files of ``authority/``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from polder.api.issuers import adopt_first, load_issuers
from polder.model import Refused, Verdict
from polder.settings import ConfigError, StateDir, make_private, write_atomic
from polder.settings.identity import replace_directory
from polder.store import Ledger, Stage, open_database, sqlite_url
from polder.trust.authority import domain_of
from polder.trust.chain import verify_chain
from polder.trust.keys import MIN_PASSWORD, certificates_from_pem

MAGIC = b"POLDER-BACKUP-1\n"
LEDGER = "authority.sqlite3"
_N, _R, _P = 1 << 17, 8, 1
"""scrypt's cost: 128 MiB and some 0.4 s for each guess of the password (RFC 7914 §2: memory is 128 · N · r bytes)."""
_LIMIT = 4 << 30
"""Bytes of an archive; it is sealed in memory, in one piece, which GCM allows up to 64 GiB."""
_ATTEMPTS = 5
EPOCH_JUMP = 1_000_000
"""Added to the revocation epoch by a restore: more revocations than an operator makes between two backups. Epochs have 30 bits."""


@dataclass(frozen=True)
class Contents:
    """What a backup holds. ``created``: Unix seconds; ``files``: name → contents."""

    trust_domain: str
    created: int
    epoch: int
    identities: int
    files: Mapping[str, bytes]


def make_backup(state: StateDir, ledger_file: Path, trust_domain: str, password: str, now: float, random: bytes) -> bytes:
    """The backup file of the authority in ``state``, which may be serving. ``random``: 28 fresh bytes. Raises ``Refused``."""
    if len(password) < MIN_PASSWORD:
        raise Refused(Verdict.DENIED, f"the password of a backup needs at least {MIN_PASSWORD} characters")
    for _ in range(_ATTEMPTS):
        files = {LEDGER: _copy_ledger(ledger_file), **_read_files(state.authority)}
        epoch, identities, stems = _look(files[LEDGER], trust_domain)
        if all(f"{stem}.key.pem" in files for stem in stems):
            break  # else a rotation took a step between ledger and files: once more
    else:
        raise Refused(Verdict.UNKNOWN, "a key that the ledger names is missing in authority/; `polder doctor` may know why")
    facts = {"trust_domain": trust_domain, "created": int(now), "epoch": epoch, "identities": identities}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = json.dumps(facts | {"files": hashes}).encode()
    plain = _pack({"manifest.json": manifest, **files})
    salt, nonce = random[:16], random[16:28]
    header = {"kdf": "scrypt", "n": _N, "r": _R, "p": _P, "salt": _text(salt), "cipher": "AES-256-GCM", "nonce": _text(nonce)}
    lines = MAGIC + json.dumps(header | {"trust_domain": trust_domain, "created": int(now)}).encode() + b"\n"
    return lines + AESGCM(_stretch(password, salt, _N, _R, _P)).encrypt(nonce, plain, lines)


def open_backup(data: bytes, password: str) -> Contents:
    """Decrypt and check every file against the manifest; raises ``Refused`` for a wrong password or a damaged file."""
    malformed = Refused(Verdict.MALFORMED, "that is not a backup that `polder backup` made, or it is damaged")
    end = data.find(b"\n", len(MAGIC)) + 1
    if not data.startswith(MAGIC) or not len(MAGIC) < end < 4096:
        raise malformed
    try:
        header = json.loads(data[len(MAGIC) : end])
        salt, nonce = base64.b64decode(header["salt"]), base64.b64decode(header["nonce"])
        if (header["kdf"], header["cipher"], header["n"], header["r"], header["p"]) != ("scrypt", "AES-256-GCM", _N, _R, _P):
            raise malformed
        plain = AESGCM(_stretch(password, salt, _N, _R, _P)).decrypt(nonce, data[end:], data[:end])
    except InvalidTag:
        raise Refused(Verdict.DENIED, "the backup cannot be opened: wrong password, or the file is damaged") from None
    except (ValueError, KeyError, TypeError):
        raise malformed from None
    files = _unpack(plain)
    try:
        manifest = json.loads(files.pop("manifest.json"))
        if manifest["files"] != {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}:
            raise malformed
        return Contents(manifest["trust_domain"], manifest["created"], manifest["epoch"], manifest["identities"], files)
    except (ValueError, KeyError, TypeError):
        raise malformed from None


def verify(contents: Contents, scratch: Path, now: float, password: str | None = None) -> None:
    """Try the restore in ``scratch`` (private, empty): ledger whole, issuers under the root, their keys opened. Raises ``Refused``
    or ``ConfigError``. ``password``: of the issuers' keys, where it is not in the backup.
    """
    _lay_out(contents, scratch)
    with closing(sqlite3.connect(scratch / LEDGER)) as db:
        if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            raise Refused(Verdict.MALFORMED, "the ledger in the backup is damaged")
    held = scratch / "issuer-password"
    password = password or (held.read_text(encoding="utf-8").strip() if held.exists() else None)
    if password is None:
        raise ConfigError("command line", "issuer-password-file", "the backup holds no password of the issuer's key: give it")
    roots = certificates_from_pem(contents.files["root.pem"])
    if any(domain_of(x509.load_der_x509_certificate(root)) != contents.trust_domain for root in roots):
        raise Refused(Verdict.FOREIGN, "the root in the backup is another overlay's")
    ledger = Ledger(open_database(sqlite_url(scratch / LEDGER)), contents.trust_domain)
    try:
        adopt_first(scratch, ledger, now)
        for issuer in load_issuers(scratch, ledger, contents.trust_domain, password).known():
            verify_chain(issuer.chain(), roots, contents.trust_domain, now)
    finally:
        ledger.close()


def restore(contents: Contents, state: StateDir, now: float, password: str | None = None) -> int:
    """Put the authority of a verified backup in its place; an authority that is there is kept beside it. Returns the epoch.

    The revocation epoch jumps beyond what nodes can hold, and the ledger remembers that nodes may know of revocations that it
    does not: the authority asks them before it tells them anything.
    """
    new = state.authority.with_name("authority.restored")
    if new.exists():
        for file in sorted(new.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    make_private(new)
    verify(contents, new, now, password)
    ledger = Ledger(open_database(sqlite_url(new / LEDGER)), contents.trust_domain)
    try:
        epoch = ledger.restored(EPOCH_JUMP, f"restored from the backup of {contents.created}")
    finally:
        ledger.close()
    replace_directory(new, state.authority)
    return epoch


def _lay_out(contents: Contents, directory: Path) -> None:
    for name, data in contents.files.items():
        target = directory / name
        make_private(target.parent)
        write_atomic(target, data, 0o600 if "key" in name or "password" in name or name == LEDGER else 0o644)


def _read_files(directory: Path) -> dict[str, bytes]:
    chosen = [
        *directory.glob("*.pem"),
        *directory.glob("*.toml"),
        *directory.glob("conf.d/*.toml"),
        directory / "issuer-password",
    ]
    found = {}
    for file in chosen:
        try:
            found[str(file.relative_to(directory))] = file.read_bytes()
        except FileNotFoundError:
            continue  # of an issuer that goes, or a password that is kept elsewhere
    return found


def _copy_ledger(file: Path) -> bytes:
    """SQLite's online backup: one consistent state, while others write."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as source, closing(sqlite3.connect(":memory:")) as copy:
        source.backup(copy)
        return copy.serialize()


def _look(ledger: bytes, trust_domain: str) -> tuple[int, int, tuple[str, ...]]:
    """Revocation epoch, identities, and stems of the issuers' keys, from the copy: what the file really holds."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="polder-backup-") as scratch:
        path = Path(scratch) / LEDGER
        path.write_bytes(ledger)
        opened = Ledger(open_database(sqlite_url(path)), trust_domain)
        try:
            stems = tuple(row.file for row in opened.issuers.rows() if row.stage is not Stage.RETIRED)
            return opened.epoch(), len(opened.identities()), stems
        finally:
            opened.close()


def _pack(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz", preset=1) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _unpack(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    room = _LIMIT
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as archive:
            for entry in archive:
                room -= entry.size
                path = Path(entry.name)
                body = archive.extractfile(entry) if entry.isreg() else None
                if room < 0 or path.is_absolute() or ".." in path.parts or body is None:
                    raise Refused(Verdict.MALFORMED, f"the backup holds {entry.name!r}, which no authority has")
                files[entry.name] = body.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Refused(Verdict.MALFORMED, f"the backup's archive is damaged: {error}") from error
    return files


def _stretch(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=n, r=r, p=p).derive(password.encode())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
