"""``python -m scripts.fuzz_messages [--seconds N] [--seed N] [target …]``: what Python reads of strangers, with mutated seeds.

Control messages between nodes, signed records, tokens, names, certificates, KeyNote credentials, payments. Each target takes any bytes, may
refuse them with ``ValueError`` or ``Refused`` only, and what it takes it must write as it read it. Seeds are made from real
values and read from ``fuzz/corpus/NAME``; an input that fails is kept under ``fuzz/artifacts``; exit status 3.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from polder.model import Kind, Refused, Signed, SpiffeId, decode, encode
from polder.model.overlay_messages import METHODS
from polder.model.ring_messages import decode_answer, decode_request
from polder.pdp.frames import Count, Judge, Over
from polder.pdp.frames import pack as pack_frame
from polder.pdp.frames import unpack as unpack_frame
from polder.rsvp.grammar import read as read_rsvp
from polder.rsvp.integrity import Guard, Key
from polder.rsvp.intserv import Tspec
from polder.rsvp.ip import Packet
from polder.rsvp.messages import Message, PathTear
from polder.rsvp.messages import Path as Announcement
from polder.rsvp.node import Node
from polder.rsvp.objects import Hop, Sender, Session
from polder.rsvp.policy_data import Bundles, PolicyData, by_hash, pack_bundle, whole
from polder.rsvp.state import Config, Interface, Send
from polder.rsvp.wire import Malformed, split
from polder.trust import read_identity
from polder.trust.authority import make_issuer, make_root
from polder.trust.chain import parse_chain
from polder.trust.profiles import Profile
from polder.trust.tokens import mint_token, token_hash
from scripts import fuzz_credentials, fuzz_payments

ROOT = Path(__file__).parent.parent / "fuzz"
LONGEST = 20_000
_WORDS = (
    *(bytes([head]) for head in (0xC0, 0xC3, 0xFF, 0x80, 0x90, 0xA0)),
    *(bytes([head]) + b"\xff" * 4 for head in (0xC6, 0xDB, 0xDD, 0xDF)),
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xcb\x7f\xf8" + bytes(6),
    b"\x91" * 600,
    b"\x30\x82\xff\xff",
    b"\x06\x01",
    b"spiffe://",
    b"/node/",
    b"\0",
    b"\xe2\x80\xae",
    b"=",
    b"-",
    b"_",
    *fuzz_credentials.WORDS,
    *fuzz_payments.WORDS,
)
"""What decoders stumble over: heads of MessagePack with lengths that are not there, nesting, DER, text."""


def _ring_request(data: bytes) -> None:
    """Taken: written and read again it is the same."""
    request = decode_request(data)
    assert decode_request(encode(request)) == request


def _ring_answer(data: bytes) -> None:
    """As requests."""
    answer = decode_answer(data)
    assert decode_answer(encode(answer)) == answer


def _overlay(data: bytes) -> None:
    """The first byte chooses the method and the direction."""
    kinds = [kind for pair in METHODS.values() for kind in pair]
    if not data:
        raise ValueError("nothing")
    kind = kinds[data[0] % len(kinds)]
    value = decode(data[1:], kind)
    assert encode(decode(encode(value), kind)) == encode(value)


def _signed(data: bytes) -> None:
    """A signed record's envelope."""
    signed = decode(data, Signed)
    assert decode(encode(signed), Signed) == signed


def _token(data: bytes) -> None:
    """One spelling of a token has a hash, and no other."""
    text = data.decode("utf-8")
    assert len(token_hash(text)) == 32
    assert text.strip() == text.strip().encode("ascii").decode()


def _name(data: bytes) -> None:
    """A SPIFFE id that is read is written the same."""
    text = data.decode("utf-8")
    assert str(SpiffeId.parse(text)) == text


def _certificate(data: bytes) -> None:
    """A certificate that is read names somebody of ours, in a form that a name may have."""
    (leaf,) = parse_chain((data,))
    found = read_identity(leaf)
    assert SpiffeId.parse(str(found.id)) == found.id


def _rsvp(data: bytes) -> None:
    """What is taken is written as it was read, and what is not loses nothing."""
    try:
        datagram = split(data)
    except Malformed as error:
        assert error.part is None or error.part.pack() == data
        raise
    assert datagram.pack() == data
    message = read_rsvp(datagram)
    again = split(message.pack())
    assert read_rsvp(again) == message
    assert read_rsvp(again).pack() == message.pack()


def _rsvp_policy(data: bytes) -> None:
    """Policy data with a bundle of credentials, as routers look for it."""
    policy = PolicyData.read(data)
    assert PolicyData.read(policy.pack()).live() == policy.live()
    Bundles(1 << 16).find((data,))


def _guard() -> Guard:
    return Guard((Key(7, b"k" * 32),), b"cookies of a test", 10**15, 0.0)


def _rsvp_sealed(data: bytes) -> None:
    """On a link with keys: believed is only what was sealed with one of them, byte for byte but for the checksum behind it."""
    found, _ = _guard().open(data, IPv4Address("192.0.2.1"), 1.0)
    assert not found, "nothing is believed before a challenge was answered"


def _rsvp_node(data: bytes) -> None:
    """A router takes any message."""
    _to_router(Packet(IPv4Address("192.0.2.9"), IPv4Address("198.51.100.9"), 64, True, data))


def _rsvp_ip6(data: bytes) -> None:
    """What a raw socket of IPv6 may give: a packet that is read is written the same, and a router takes it."""
    packet = Packet.read6(data, _SIX[0], _SIX[1], 64)
    assert packet.payload in data
    assert Packet.read6(packet.pack(), _SIX[1], _SIX[0], 1) == packet
    _to_router(packet)


_SIX = IPv6Address("2001:db8::9"), IPv6Address("2001:db8:1::9")


def _to_router(packet: Packet) -> None:
    """It takes any packet, and what it says of it others can read; in the end it has forgotten it."""
    interfaces = {n: Interface(n, IPv4Address(f"192.0.2.{n}"), 1e7, other=IPv6Address(f"2001:db8::{n}")) for n in (1, 2)}
    node = Node(Config(most_paths=2), interfaces, lambda to, source: (2,), random.Random(1))  # noqa: S311 - to be repeated
    node.receive(packet, 1, 0.0)
    for action in node.take():
        if isinstance(action, Send):
            read_rsvp(split(action.data))
    while (at := node.deadline()) is not None:
        assert at < 10_000
        node.tick(at)
        node.take()
    assert node.leftovers() == 0


def _pdp_frame(data: bytes) -> None:
    """A frame that is read is written the same."""
    said: object = unpack_frame(data, Judge | Over | Count)
    assert unpack_frame(pack_frame(said)[4:], Judge | Over | Count) == said


TARGETS: dict[str, Callable[[bytes], None]] = {
    "ring-request": _ring_request,
    "ring-answer": _ring_answer,
    "overlay-message": _overlay,
    "signed-record": _signed,
    "token": _token,
    "spiffe-name": _name,
    "certificate": _certificate,
    "rsvp-message": _rsvp,
    "rsvp-policy": _rsvp_policy,
    "rsvp-sealed": _rsvp_sealed,
    "rsvp-node": _rsvp_node,
    "rsvp-ip6": _rsvp_ip6,
    "pdp-frame": _pdp_frame,
    **fuzz_credentials.TARGETS,
    **fuzz_payments.TARGETS,
}


def holds(name: str, data: bytes) -> bool:
    """Whether target ``name`` takes ``data``; raises what it must not raise."""
    try:
        TARGETS[name](data)
    except (ValueError, Refused):
        return False
    return True


def seeds(name: str) -> list[bytes]:
    """The files of its corpus."""
    return [path.read_bytes() for path in sorted((ROOT / "corpus" / name).glob("*"))]


def mutate(inputs: list[bytes], rng: random.Random) -> bytes:
    """One of the inputs with a few changes."""
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.randint(0, 16))
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                data[at:at] = rng.choice(_WORDS)
            case 3:
                data[at:end] = rng.choice(_WORDS)
            case 4:
                del data[at:end]
            case 5:
                data[at:at] = data[at:end]
            case _:
                other = rng.choice(inputs)
                data[at:] = other[rng.randint(0, len(other)) :]
    return bytes(data[:LONGEST])


def fuzz(name: str, until: Callable[[int], bool], seed: int) -> bytes | None:
    """Try mutants ``until(runs)``; the input that failed."""
    rng, inputs, runs, taken = random.Random(seed), seeds(name), 0, 0  # noqa: S311 - chance that can be repeated
    queue = list(inputs)
    while queue or not until(runs):
        data = queue.pop() if queue else mutate(inputs, rng)
        runs += 1
        try:
            taken += holds(name, data)
        except Exception as error:  # whatever it is, it was not to be
            print(f"{name}: FAILED after {runs} runs: {error!r}")
            return data
    print(f"{name}: {runs} runs of {len(inputs)} seeds, {taken} taken")
    return None


def make_seeds() -> None:
    """Write real values of each kind into the corpus, where there are none."""
    fuzz_credentials.make_seeds(_write)
    fuzz_payments.make_seeds(_write)
    rng = random.Random(1)  # noqa: S311 - seeds of a fuzzer, not secrets
    key, now = ec.generate_private_key(ec.SECP256R1()), 1_799_990_000.0  # good when the native target looks
    root = make_root(key, "o.test", now, rng)
    issuer = make_issuer(key, root, ec.generate_private_key(ec.SECP256R1()), now, rng)

    def certificate(profile: Profile) -> bytes:
        return issuer.issue(profile, key.public_key(), now, 100_000.0, rng)[0]

    node = certificate(Profile(SpiffeId("o.test", Kind.NODE, "n1"), bytes(16)))
    _write("certificate", "node", node)
    _write("certificate", "user", certificate(Profile(SpiffeId("o.test", Kind.USER, "ann"), None, ("staff", "red"))))
    _write("certificate", "site", certificate(Profile(SpiffeId("o.test", Kind.SITE, "wiki"), None, (), ("wiki.test",))))
    _write("certificate", "root", root.public_bytes(serialization.Encoding.DER))
    for number in range(3):
        _write("token", str(number), mint_token(random.Random(number)).encode())  # noqa: S311 - as above
    for kind in Kind:
        _write("spiffe-name", str(kind), f"spiffe://o.test/{kind}/some.name-1".encode())
    _write("signed-record", "one", encode(Signed(b"payload", b"s" * 64, (node,))))
    for path in sorted((ROOT.parent / "tests" / "rsvp" / "captures").glob("*.hex")):
        _write("rsvp-message", path.stem, bytes.fromhex(path.read_text()))
        _write("rsvp-node", path.stem, bytes.fromhex(path.read_text()))
        _write("rsvp-sealed", path.stem, _guard().seal(split(bytes.fromhex(path.read_text())), 1.0))
    sender, session = Sender(_SIX[0], 6000), Session(_SIX[1], 17, 5004)
    tspec, hop = Tspec(1e6, 3e4, 2e6), Hop(IPv6Address("2001:db8::8"), 1)
    for body in (Announcement(session, hop, 30_000, sender, tspec), PathTear(session, hop, sender, tspec)):
        data = Message(body).pack()
        _write("rsvp-ip6", type(body).__name__, data)
        _write("rsvp-ip6", f"{type(body).__name__}-alert", Packet(*_SIX, 63, True, data).pack())
    bundle = pack_bundle([b"KeyNote-Version: 2\nAuthorizer: POLICY\n"])
    _write("rsvp-policy", "whole", whole(bundle))
    _write("rsvp-policy", "hash", by_hash(bundle))
    for kind in (Judge, Over, Count):
        _write("pdp-frame", kind.__name__, msgspec.msgpack.encode(_example(kind)))
    kinds = [kind for pair in METHODS.values() for kind in pair]
    for number, kind in enumerate(kinds):
        _write("overlay-message", kind.__name__, bytes([number]) + msgspec.msgpack.encode(_example(kind)))
    for name, union in (("ring-request", "_REQUEST"), ("ring-answer", "_ANSWER")):
        import polder.model.ring_messages as ring

        for kind in getattr(ring, union).type.__args__:
            _write(name, kind.__name__, msgspec.msgpack.encode(_example(kind)))


def _example(kind: Any) -> Any:
    """Some value of a type, by its schema."""
    return msgspec.convert(_fill(msgspec.inspect.type_info(kind)), kind, strict=False)


def _fill(info: Any) -> Any:
    from msgspec import inspect

    match info:
        case inspect.StructType():
            named = {field.encode_name: _fill(field.type) for field in info.fields if field.required}
            return named | ({info.tag_field: info.tag} if info.tag_field else {})
        case inspect.UnionType():
            return _fill(next((each for each in info.types if not isinstance(each, inspect.NoneType)), info.types[0]))
        case inspect.BytesType():
            return bytes(info.min_length or 16)
        case inspect.StrType():
            return "n1"
        case inspect.IntType() | inspect.FloatType():
            return info.ge or 1
        case inspect.BoolType():
            return True
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.LiteralType():
            return info.values[0]
        case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return [_fill(info.item_type)]
        case inspect.TupleType():
            return [_fill(each) for each in info.item_types]
        case inspect.DictType():
            return {"n1": _fill(info.value_type)}
        case _:
            return None


def _write(target: str, name: str, data: bytes) -> None:
    folder = ROOT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
        (folder / name).write_bytes(data)


def main() -> int:
    """Fuzz for a bounded time; 3 when an input failed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.fuzz_messages", description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--make-seeds", action="store_true", help="write seeds of kinds that have none")
    arguments = parser.parse_args()
    if arguments.make_seeds:
        make_seeds()
    chosen = arguments.targets or list(TARGETS)
    failed = False
    for name in chosen:
        end = time.monotonic() + arguments.seconds / len(chosen)
        data = fuzz(name, lambda _, end=end: time.monotonic() > end, arguments.seed)  # type: ignore[misc]
        if data is not None:
            failed = True
            (ROOT / "artifacts").mkdir(exist_ok=True)
            path = ROOT / "artifacts" / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            print(f"{name}: input {path}")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
