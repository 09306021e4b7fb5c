"""The door: room for so many, judged before the handshake, and an end to each visit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from polder.api.door import Door
from polder.api.limits import BURST, SourceRates
from polder.api.tls import authority_id, client_tls, server_tls, set_identity
from polder.shell.clock import wall
from polder.trust import Profile
from tests.support.identities import DOMAIN, Pki, new_key

PKI = Pki(now=wall())
OFTEN = 10_000.0


class Echo(asyncio.Protocol):
    """Says everything again; tells at the end."""

    ended = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        Echo.ended += 1


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    context, key = server_tls(PKI.roots), new_key()
    chain = PKI.issuer.issue(Profile(authority_id(DOMAIN)), key.public_key(), wall(), 600, random.Random(1))
    set_identity(context, key, chain, tmp_path)
    return context


def door(
    tls: ssl.SSLContext | None = None, rate: float = OFTEN, connections: int = 9, per_source: int = 9, seconds: float = 60.0
) -> Door:
    rates = SourceRates(rate, 16)
    return Door(Echo, tls, rates, connections=connections, per_source=per_source, seconds=seconds)


@contextlib.asynccontextmanager
async def listening(entrance: Door) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(entrance, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def ask(port: int, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"x")
    try:
        return reader, writer, await reader.read(1)
    except ConnectionError:
        return reader, writer, b""


async def until_empty(entrance: Door) -> None:
    async with asyncio.timeout(30):
        while len(entrance):
            await asyncio.sleep(0.001)


async def test_one_too_many_is_turned_away_until_somebody_leaves() -> None:
    entrance = door(per_source=2)
    async with listening(entrance) as port:
        first, second, third = [await ask(port) for _ in range(3)]
        assert [first[2], second[2], third[2]] == [b"x", b"x", b""]
        assert (entrance.turned_away, len(entrance)) == (1, 2)
        first[1].write_eof()
        assert await first[0].read() == b""
        while (again := await ask(port))[2] != b"x":
            again[1].close()
        for _, writer, _ in (first, second, third, again):
            writer.close()
        await until_empty(entrance)


async def test_the_total_counts_all_sources() -> None:
    async with listening(door(connections=1)) as port:
        first, second = await ask(port), await ask(port)
        assert (first[2], second[2]) == (b"x", b"")
        first[1].close()
        second[1].close()


async def test_too_often_is_turned_away() -> None:
    entrance = door(rate=0.001)
    async with listening(entrance) as port:
        said = []
        for _ in range(BURST + 2):
            _, writer, answer = await ask(port)
            said.append(answer)
            writer.close()
        assert said == [b"x"] * BURST + [b""] * 2
        assert entrance.turned_away == 2


async def test_nobody_stays_for_ever() -> None:
    async with listening(door(seconds=0.02)) as port:
        reader, writer, said = await ask(port)
        assert said == b"x"
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()


async def test_tls_begins_behind_the_door_and_early_data_is_not_lost(tls: ssl.SSLContext) -> None:
    entrance, before = door(tls), Echo.ended
    client = client_tls(PKI.roots, DOMAIN)
    async with listening(entrance) as port:
        for _ in range(20):
            _, writer, said = await ask(port, client)
            assert said == b"x"
            writer.close()
            await writer.wait_closed()
        await until_empty(entrance)
    assert Echo.ended == before + 20


async def test_data_in_the_flight_of_the_last_handshake_message_arrives(tls: ssl.SSLContext) -> None:
    """TLS 1.3 lets a client send behind its Finished: both in one segment here, so that they arrive in one read."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = client_tls(PKI.roots, DOMAIN).wrap_bio(incoming, outgoing)
    entrance = door(tls)
    async with listening(entrance) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        session.write(b"early")
        writer.write(outgoing.read())
        while True:
            try:
                assert session.read(5) == b"early"
                break
            except ssl.SSLWantReadError:
                incoming.write(await reader.read(65536))
        writer.close()
        await until_empty(entrance)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00" + bytes(64), b""])
async def test_a_failed_handshake_leaves_no_trace(tls: ssl.SSLContext, noise: bytes) -> None:
    entrance = door(tls)
    async with listening(entrance) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(noise)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        await until_empty(entrance)


async def test_a_silent_stranger_is_counted_and_put_out(tls: ssl.SSLContext) -> None:
    entrance = door(tls, seconds=0.05)
    async with listening(entrance) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        await until_empty(entrance)
