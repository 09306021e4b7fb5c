"""The policy decision point over its sockets: several routers, questions in bulk, certificates, a decider that fails or is away."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from polder.keynote import signing
from polder.model.reservations import Ask, Verdict
from polder.pdp.client import PdpClient, count
from polder.pdp.deciders import KeyNoteDecider
from polder.pdp.frames import Count, FrameError, Judge, Judged, Over, pack, read, unpack
from polder.pdp.server import Pdp, tls_context
from polder.rsvp.policy_data import pack_bundle

NOW = 1_800_000_000.0


def ask(**changes: object) -> Ask:
    values: dict[str, object] = {
        "router": "r1",
        "link": "out",
        "session": "udp 198.18.9.9 port 5004",
        "senders": ("198.18.0.1 port 6000",),
        "style": "FF",
        "service": "controlled-load",
        "rate": 2_500_000,
        "bucket": 30_000,
        "peak": 5_000_000,
        "min_unit": 64,
        "max_packet": 1500,
        "reserved_rate": 2_500_000,
        "flowspec": "ab" * 32,
        "installed": False,
        "bundle": b"",
    }
    return Ask(**values | changes)  # type: ignore[arg-type]


class Clerk:
    """Accepts whom it likes, and remembers what it was asked."""

    def __init__(self) -> None:
        self.seen: list[Ask] = []
        self.batches: list[int] = []
        self.ended: list[Ask] = []
        self.broken = False

    def decide_many(self, asks: Sequence[Ask], now: float) -> Sequence[Verdict]:
        if self.broken:
            raise RuntimeError("a fault")
        self.batches.append(len(asks))
        self.seen += asks
        return [Verdict(each.rate % 2 == 0, 0 if each.rate % 2 == 0 else 3, "", now + 60, str(each.rate)) for each in asks]

    def release(self, each: Ask, now: float) -> None:
        self.ended.append(each)

    def numbers(self) -> dict[str, float]:
        return {}


async def test_answers_find_their_questions_from_several_routers(tmp_path: Path) -> None:
    clerk = Clerk()
    point = Pdp(clerk, lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    routers = [PdpClient.to(f"unix:{tmp_path}/pdp.sock", 10.0) for _ in range(3)]
    running = [asyncio.create_task(router.run()) for router in routers]
    asking = [router.judge(ask(router=f"r{n}", rate=rate)) for n, router in enumerate(routers) for rate in range(100, 200)]
    verdicts = await asyncio.gather(*asking)
    for verdict, rate in zip(verdicts, [*range(100, 200)] * 3, strict=True):
        assert verdict is not None
        assert (verdict.accepted, verdict.charge, verdict.until) == (rate % 2 == 0, str(rate), NOW + 60)
    assert len(clerk.batches) < 300, "what arrived together is judged together"
    routers[0].over(ask())
    while not clerk.ended:
        await asyncio.sleep(0.01)
    counts = await count(f"{tmp_path}/pdp.sock")
    assert (counts["accepted"], counts["refused"], counts["ended"], counts["failed"]) == (150, 150, 1, 0)
    for task in running:
        task.cancel()
    await point.close()


async def test_a_decider_that_fails_refuses_and_the_service_goes_on(tmp_path: Path) -> None:
    clerk = Clerk()
    point = Pdp(clerk, lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    router = PdpClient.to(f"unix:{tmp_path}/pdp.sock", 10.0)
    running = asyncio.create_task(router.run())
    clerk.broken = True
    verdict = await router.judge(ask())
    assert verdict is not None
    assert not verdict.accepted
    clerk.broken = False
    verdict = await router.judge(ask())
    assert verdict is not None
    assert verdict.accepted
    assert point.counts.failed == 1
    running.cancel()
    await point.close()


async def test_nobody_there_is_no_verdict_and_a_later_start_is_found(tmp_path: Path) -> None:
    router = PdpClient.to(f"unix:{tmp_path}/pdp.sock", 0.2)
    running = asyncio.create_task(router.run())
    assert await router.judge(ask()) is None
    point = Pdp(Clerk(), lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    while await router.judge(ask()) is None:
        await asyncio.sleep(0.05)
    running.cancel()
    await point.close()


async def test_strangers_bytes_end_only_their_connection(tmp_path: Path) -> None:
    point = Pdp(Clerk(), lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    for data in (b"\xff\xff\xff\xff", pack({"type": "judge"}), pack([1]), b"\0\0\0\1\xc1"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "pdp.sock")
        writer.write(data)
        assert await reader.read() == b""
        writer.close()
    router = PdpClient.to(f"unix:{tmp_path}/pdp.sock", 10.0)
    running = asyncio.create_task(router.run())
    assert await router.judge(ask()) is not None
    running.cancel()
    await point.close()


async def test_what_is_beyond_a_limit_is_turned_away_and_counted(tmp_path: Path) -> None:
    point = Pdp(Clerk(), lambda: NOW, routers=1)
    await point.start(tmp_path / "pdp.sock")
    first = await asyncio.open_unix_connection(tmp_path / "pdp.sock")
    first[1].write(pack(Judge(1, ask())))
    await read(first[0])
    second = await asyncio.open_unix_connection(tmp_path / "pdp.sock")
    assert await second[0].read() == b""
    assert (point.counts.turned_away, point.open) == (1, 1)
    for _, writer in (first, second):
        writer.close()
    await point.close()


@pytest.mark.parametrize("asked", [Judge(1, ask()), Count()], ids=["judge", "count"])
async def test_a_router_that_does_not_read_is_hung_up_on(tmp_path: Path, asked: Judge | Count) -> None:
    point = Pdp(Clerk(), lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    _, writer = await asyncio.open_unix_connection(tmp_path / "pdp.sock", limit=1)
    with contextlib.suppress(OSError):
        while not point.counts.unread:
            writer.write(pack(asked) * 512)
            await writer.drain()
    writer.close()
    assert point.counts.unread == 1
    await point.close()


async def test_a_decision_point_that_says_nothing_is_left_for_another(tmp_path: Path) -> None:
    silent = await asyncio.start_unix_server(lambda reader, writer: reader.read(), path=tmp_path / "silent.sock")
    point = Pdp(Clerk(), lambda: NOW)
    await point.start(tmp_path / "pdp.sock")
    router = PdpClient.to(f"unix:{tmp_path}/silent.sock", 0.2)
    running = asyncio.create_task(router.run())
    assert await router.judge(ask()) is None
    asking = asyncio.create_task(router.judge(ask()))
    router.aim(f"unix:{tmp_path}/pdp.sock", 30.0)
    while (verdict := await router.judge(ask())) is None:
        await asyncio.sleep(0.01)
    assert verdict.accepted
    asking.cancel()
    running.cancel()
    silent.close()
    await point.close()


@given(st.binary(max_size=200))
def test_frames_are_read_or_refused(data: bytes) -> None:
    for kind in (Judge | Over, Judged):
        try:
            value = unpack(data, kind)
        except FrameError:
            continue
        assert unpack(pack(value)[4:], kind) == value


def _certificates(directory: Path) -> None:
    """A root, and certificates for the policy decision point and a router called r7."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    root_key = ec.generate_private_key(ec.SECP256R1())

    def make(subject: str, key: ec.EllipticCurvePrivateKey, ca: bool, uri: str = "") -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("root"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False)
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, True)
        if uri:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)
        return builder.sign(root_key, hashes.SHA256())

    (directory / "root.pem").write_bytes(make("root", root_key, True).public_bytes(serialization.Encoding.PEM))
    for who, uri in (("pdp", ""), ("router", "spiffe://isp.test/router/r7")):
        key = ec.generate_private_key(ec.SECP256R1())
        (directory / f"{who}.pem").write_bytes(make(who, key, False, uri).public_bytes(serialization.Encoding.PEM))
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{who}.key").write_bytes(secret)


async def test_behind_tls_a_router_is_who_its_certificate_says(tmp_path: Path) -> None:
    _certificates(tmp_path)

    def context(who: str, server: bool):  # type: ignore[no-untyped-def]
        return tls_context(f"{tmp_path}/{who}.pem", f"{tmp_path}/{who}.key", f"{tmp_path}/root.pem", server=server)

    clerk = Clerk()
    point = Pdp(clerk, lambda: NOW)
    (where,) = await point.start(None, ("127.0.0.1", 0), context("pdp", True))
    router = PdpClient.to(where, 10.0, context("router", False))
    running = asyncio.create_task(router.run())
    assert await router.judge(ask(router="r1")) is not None
    assert [each.router for each in clerk.seen] == ["r7"]
    running.cancel()
    await point.close()


PROVIDER = signing.make_key("ed25519")
KEY = signing.identifier(PROVIDER)
POLICY = f'Authorizer: "POLICY"\nLicensees: "{KEY}"\nConditions: app_domain == "Polder-BandEx" -> "reserve";\n'


def grant(conditions: str) -> bytes:
    text = f'KeyNote-Version: 2\nAuthorizer: "{KEY}"\nLicensees: "router:r1"\n{conditions}'
    return pack_bundle([signing.sign(text, PROVIDER).encode()])


@pytest.mark.parametrize(
    ("bundle", "changes", "code"),
    [
        (grant('Conditions: @rate <= 3000000 -> "reserve";\n'), {}, 0),
        (grant('Conditions: @rate <= 2000000 -> "reserve";\n'), {}, 3),
        (grant('Conditions: session == "udp 198.18.9.9 port 5004" -> "reserve";\n'), {"session": "udp 198.18.9.8 port 5004"}, 3),
        (grant('Conditions: date < "20200101" -> "reserve";\n'), {}, 3),
        (grant('Conditions: @rate <= 3000000 -> "reserve";\n'), {"router": "r2"}, 3),
        (grant(""), {}, 3),
        (grant('Conditions: @rate <= 3000000 -> "reserve";\n').replace(b"3000000", b"9000000"), {}, 3),
        (b"", {}, 14),
        (b"\xc1", {}, 11),
    ],
)
def test_keynote_decides_by_what_the_router_knows(bundle: bytes, changes: dict[str, object], code: int) -> None:
    verdict = KeyNoteDecider([POLICY], 300.0).decide(ask(bundle=bundle, **changes), NOW)
    assert (verdict.accepted, verdict.code) == (code == 0, code), verdict.reason
    assert verdict.reason
    assert verdict.until == (NOW + 300 if code == 0 else 0)


def test_warm_decisions_are_the_cold_ones() -> None:
    rng, decider = random.Random(1), KeyNoteDecider([POLICY], 300.0)
    bundles = [grant(f'Conditions: @rate <= {rate} -> "reserve";\n') for rate in (100, 200, 300)]
    asks = [ask(bundle=rng.choice(bundles), rate=rng.randrange(400)) for _ in range(200)]
    warm = decider.decide_many(asks, NOW)
    assert [each.accepted for each in warm] == [KeyNoteDecider([POLICY], 300.0).decide(each, NOW).accepted for each in asks]
    assert 0 < sum(each.accepted for each in warm) < 200
