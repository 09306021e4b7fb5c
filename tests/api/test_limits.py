"""Bounds: a bucket per source, a door with room for so many, and an end to each visit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.api.limits import BURST, Door, SourceRates, source_of


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unix", "unix"),
    ],
)
def test_sources(address: str, source: str) -> None:
    assert source_of(address) == source


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200), st.floats(0.1, 20))
def test_no_more_pass_than_burst_and_rate_allow(gaps: list[float], rate: float) -> None:
    rates = SourceRates(rate, 16)
    now, passed = 0.0, 0
    for gap in gaps:
        now += gap
        wait = rates.admit("a", now)
        assert wait >= 0
        passed += wait == 0
        assert passed <= max(BURST, rate * BURST) + rate * now + 1e-6
    assert rates.admit("b", now) == 0  # others do not suffer


@given(st.floats(0.1, 20))
def test_the_wait_that_is_told_is_enough(rate: float) -> None:
    rates = SourceRates(rate, 16)
    while (wait := rates.admit("a", 0.0)) == 0:
        pass
    assert rates.admit("a", wait * 1.001 + 1e-6) == 0


def test_the_longest_silent_is_forgotten() -> None:
    rates = SourceRates(0.001, 3)
    for _ in range(BURST):
        rates.admit("a", 0.0)
    assert rates.admit("a", 0.0) > 0
    for name in "bcd":
        rates.admit(name, 1.0)
    assert len(rates._buckets) == 3
    assert rates.admit("a", 1.0) == 0


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def listening(door: Door) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(door, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def ask(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    try:
        return reader, writer, await reader.read(1)
    except ConnectionError:
        return reader, writer, b""


async def test_one_too_many_is_turned_away_until_somebody_leaves() -> None:
    door = Door(Echo, connections=9, per_source=2)
    async with listening(door) as port:
        first, second, third = [await ask(port) for _ in range(3)]
        assert [first[2], second[2], third[2]] == [b"x", b"x", b""]
        assert door.turned_away == 1
        first[1].write_eof()
        assert await first[0].read() == b""
        while (again := await ask(port))[2] != b"x":
            again[1].close()
        for _, writer, _ in (first, second, third, again):
            writer.close()


async def test_the_total_counts_all_sources() -> None:
    door = Door(Echo, connections=1, per_source=9)
    async with listening(door) as port:
        first, second = await ask(port), await ask(port)
        assert (first[2], second[2]) == (b"x", b"")
        first[1].close()
        second[1].close()


async def test_nobody_stays_for_ever() -> None:
    async with listening(Door(Echo, seconds=0.02)) as port:
        reader, writer, said = await ask(port)
        assert said == b"x"
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
