"""Enrolment on this machine: make a key, keep it, send the request, put the identity in its place.

The key is on the disk before the token is sent, under a name that follows from the token's hash: when the answer is lost or the
machine crashes, the same command again finds the key, gets the same certificate and finishes.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from polder.api.client import enrol
from polder.api.tls import KeyMaker, new_key
from polder.model import Kind, Refused, SpiffeId, Verdict
from polder.settings import StateDir, make_private, write_atomic
from polder.settings.identity import IdentityDir, pem_blocks, pem_encode, replace_directory
from polder.trust.keys import key_from_der, key_to_der
from polder.trust.tokens import token_hash

Enrol = Callable[..., Awaitable[IdentityDir]]


async def enrol_here(
    state: StateDir,
    url: str,
    pin: str,
    token: str,
    address: str | None = None,
    *,
    kinds: frozenset[Kind] = frozenset(Kind),
    replace: bool = False,
    make_key: KeyMaker = new_key,
    via: Enrol = enrol,
) -> tuple[IdentityDir, Path]:
    """Enrol and save; returns the identity and its directory.

    Raises ``Refused`` when the token is for another kind than ``kinds``, or an identity stands in the way and ``replace`` is not
    set (then the old one is kept beside it); nothing is lost then: the command can be repeated.
    """
    pending = state.root / f"enrolling-{token_hash(token).hex()[:16]}"
    if kinds == {Kind.NODE} and not replace:
        _refuse_present(state.node)
    fresh = not pending.exists()
    key = _pending_key(pending, make_key)
    try:
        identity = await via(url, pin, token, key, address)
    except Refused:
        if fresh:  # the authority said no to this very key: it certified nothing
            shutil.rmtree(pending)
        raise
    if identity.id.kind not in kinds:
        verb = "join" if identity.id.kind is Kind.NODE else "enroll"
        raise Refused(
            Verdict.WRONG_HOLDER, f"the invitation is for {identity.id}: repeat with `polder {verb}` and the same token, here"
        )
    final = state.identity(str(identity.id.kind), identity.id.name)
    if not replace:
        _refuse_present(final)
    identity.save(pending)
    _carry_settings(final, pending)
    replace_directory(pending, final)
    return identity, final


def installed(state: StateDir) -> list[tuple[SpiffeId, Path]]:
    """Every identity on this machine, by kind and name."""
    return [(IdentityDir.load(path).id, path) for kind in Kind for path in state.enrolled(kind)]


def _pending_key(pending: Path, make_key: KeyMaker) -> ec.EllipticCurvePrivateKey:
    file = pending / "key.pem"
    if not file.exists():
        make_private(pending)
        write_atomic(file, pem_encode("PRIVATE KEY", key_to_der(make_key())), 0o600)
    return key_from_der(pem_blocks(file, "PRIVATE KEY")[0])


def _carry_settings(old: Path, new: Path) -> None:
    """What the operator wrote outlives a new identity."""
    for file in (*old.glob("*.toml"), *old.glob("conf.d/*.toml")):
        target = new / file.relative_to(old)
        if file.name != "identity.toml":
            make_private(target.parent)
            write_atomic(target, file.read_bytes())


def _refuse_present(path: Path) -> None:
    if (path / "identity.toml").exists():
        held = IdentityDir.load(path).id
        raise Refused(Verdict.DENIED, f"{held} is enrolled here ({path}); add --replace to put the new identity in its place")
