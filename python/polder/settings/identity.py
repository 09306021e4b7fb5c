"""``IdentityDir``: one identity on disk.

``key.pem`` (0600, made here, never leaves), ``chain.pem``, ``roots.pem``, ``identity.toml`` (written last: it makes the directory
valid) and, for nodes, ``secrets.mp`` (0600), for users ``browser-root.pem``, and ``revocations.mp``. Each file is
replaced atomically; a renewal replaces ``chain.pem`` and keeps the key, so that every mixture of old and new files is usable.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from polder.model import Member, Signed, SpiffeId
from polder.model.overlay_messages import EpochSecret
from polder.settings.base import ConfigError
from polder.settings.state import make_private, sync_directory, write_atomic
from polder.settings.toml import dump

_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n(.*?)-----END \1-----", re.DOTALL)

_HEADING = """Who this machine is in the overlay. Written by `polder join` and `polder enroll`, and at every renewal.
Nothing here is secret; key.pem and secrets.mp are."""


class _Known(msgspec.Struct, frozen=True):
    name: str
    ring_id: str
    address: str


class _Said(msgspec.Struct, frozen=True):
    """``identity.toml``."""

    uri: str
    trust_domain: str
    authority_url: str
    pin: str
    address: str | None = None
    hosts: tuple[str, ...] = ()
    members: tuple[_Known, ...] = ()


@dataclass(frozen=True)
class IdentityDir:
    """What an identity directory holds. ``key`` is PKCS #8 DER; ``chain`` (leaf, issuer) and ``roots`` are DER.

    ``members``: bootstrap members or access points; ``hosts``: names of protected sites; ``secrets``: beacon-key secrets
    (nodes only); ``address``: where a node says it listens; ``browser_root``: PEM of the narrow root for a user's browser;
    ``revocations``: the list that came with the certificate.
    """

    id: SpiffeId
    key: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False)
    roots: tuple[bytes, ...] = field(repr=False)
    authority_url: str
    pin: str
    members: tuple[Member, ...] = ()
    hosts: tuple[str, ...] = ()
    address: str | None = None
    secrets: tuple[EpochSecret, ...] = field(default=(), repr=False)
    browser_root: str = field(default="", repr=False)
    revocations: Signed | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: Path) -> IdentityDir:
        """Read ``path``; raises ``ConfigError`` that names the file and says what to do."""
        file = path / "identity.toml"
        if not file.exists():
            raise ConfigError(str(path), "", "no identity here; enrol with an invitation (`polder join` or `polder enroll`)")
        try:
            said = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _Said)
            return cls(
                id=SpiffeId.parse(said.uri),
                key=_one(path / "key.pem"),
                chain=pem_blocks(path / "chain.pem", "CERTIFICATE"),
                roots=pem_blocks(path / "roots.pem", "CERTIFICATE"),
                authority_url=said.authority_url,
                pin=said.pin,
                members=tuple(_member(known) for known in said.members),
                hosts=said.hosts,
                address=said.address,
                secrets=load_secrets(path / "secrets.mp"),
                browser_root=_text(path / "browser-root.pem"),
                revocations=_revocations(path / "revocations.mp"),
            )
        except ConfigError:
            raise
        except (msgspec.MsgspecError, ValueError) as error:
            raise ConfigError(str(file), "", f"damaged ({error}); enrol again with --replace") from error
        except OSError as error:
            raise ConfigError(str(file), "", f"cannot be read: {error}") from error

    def save(self, path: Path) -> None:
        """Write everything into ``path`` (made 0700 if absent), ``identity.toml`` last."""
        make_private(path)
        write_atomic(path / "key.pem", pem_encode("PRIVATE KEY", self.key), 0o600)
        self.save_renewed(path)

    def save_renewed(self, path: Path) -> None:
        """Write everything but the key."""
        write_atomic(path / "roots.pem", b"".join(pem_encode("CERTIFICATE", der) for der in self.roots))
        write_atomic(path / "chain.pem", b"".join(pem_encode("CERTIFICATE", der) for der in self.chain))
        if self.secrets:
            write_atomic(path / "secrets.mp", msgspec.msgpack.encode(self.secrets), 0o600)
        if self.browser_root:
            write_atomic(path / "browser-root.pem", self.browser_root.encode())
        if self.revocations:
            write_atomic(path / "revocations.mp", msgspec.msgpack.encode(self.revocations))
        write_atomic(path / "identity.toml", self._toml().encode())

    def _toml(self) -> str:
        said: dict[str, Any] = {
            "uri": str(self.id),
            "trust_domain": self.id.trust_domain,
            "authority_url": self.authority_url,
            "pin": self.pin,
            "address": self.address,
            "hosts": list(self.hosts),
            "members": [{"name": m.name, "ring_id": m.ring_id.hex(), "address": m.address} for m in self.members],
        }
        return dump(said, _HEADING)


def replace_directory(new: Path, final: Path) -> Path | None:
    """Move ``new`` to ``final``; what stood there is kept beside it, under no valid name, and returned. Durable."""
    kept = None
    if final.exists():
        kept = next(p for n in range(1, 10_000) if not (p := final.with_name(f"{final.name}~{n}")).exists())
        final.rename(kept)
    make_private(final.parent)
    new.rename(final)
    sync_directory(final.parent)
    if new.parent != final.parent:
        sync_directory(new.parent)
    return kept


def pem_encode(label: str, der: bytes) -> bytes:
    """RFC 7468 text of ``der``."""
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()


def pem_blocks(file: Path, label: str) -> tuple[bytes, ...]:
    """DER of every block with ``label`` in ``file``; raises ``ConfigError`` when there is none."""
    try:
        blocks = tuple(
            base64.b64decode(b"".join(body.split()), validate=True)
            for name, body in _BLOCK.findall(file.read_bytes())
            if name == label.encode()
        )
    except (OSError, binascii.Error) as error:
        raise ConfigError(str(file), "", f"cannot be read ({error}); enrol again with --replace") from error
    if not blocks:
        raise ConfigError(str(file), "", f"holds no {label}; enrol again with --replace")
    return blocks


def load_secrets(file: Path) -> tuple[EpochSecret, ...]:
    """Secrets of beacon keys, oldest first; none when the file is absent."""
    if not file.exists():
        return ()
    return msgspec.msgpack.decode(file.read_bytes(), type=tuple[EpochSecret, ...])


def _revocations(file: Path) -> Signed | None:
    return msgspec.msgpack.decode(file.read_bytes(), type=Signed) if file.exists() else None


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii") if file.exists() else ""


def _one(file: Path) -> bytes:
    if file.exists() and file.stat().st_mode & 0o077:
        raise ConfigError(str(file), "", "others can read this key; `chmod 600` it, and enrol anew if somebody may have")
    return pem_blocks(file, "PRIVATE KEY")[0]


def _member(known: _Known) -> Member:
    ring_id = bytes.fromhex(known.ring_id)
    if len(ring_id) != 16:
        raise ValueError("a member's ring_id has 32 hexadecimal digits")
    return Member(known.name, ring_id, known.address)
