"""A node tells a site whether it can be reached, and lets itself be used for nothing else."""

from __future__ import annotations

import asyncio

import pytest

from polder.model import Kind, Refused, Verdict
from polder.model.overlay_messages import Caller, Probe
from polder.node import probe
from polder.node.probe import EVERY_S, Prober

SITE = Caller(Kind.SITE, "wiki")


async def refused(prober: Prober, caller: Caller, source: str, ports: tuple[int, ...] = (80,)) -> Verdict:
    with pytest.raises(Refused) as told:
        await prober.answer(caller, source, Probe(ports))
    return told.value.verdict


@pytest.mark.parametrize("source", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "::"])
async def test_a_call_from_this_machine_or_its_link_is_refused(source: str) -> None:
    assert await refused(Prober(lambda: 0.0), SITE, source) is Verdict.DENIED


@pytest.mark.parametrize("kind", [Kind.USER, Kind.NODE, Kind.ADMIN])
async def test_only_sites_may_ask(kind: Kind) -> None:
    assert await refused(Prober(lambda: 0.0), Caller(kind, "x"), "198.18.0.1") is Verdict.DENIED


@pytest.mark.parametrize("ports", [(), (0,), (65536,), tuple(range(1, 10))])
async def test_few_ports_are_probed(ports: tuple[int, ...]) -> None:
    assert await refused(Prober(lambda: 0.0), SITE, "198.18.0.1", ports) is Verdict.MALFORMED


async def test_open_ports_are_told_and_a_site_is_probed_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def accepts(address: str, port: int) -> int | None:
        tried.append((address, port))
        return port if port == 443 else None

    monkeypatch.setattr(probe, "_accepts", accepts)
    now = [100.0]
    prober = Prober(lambda: now[0])
    told = await prober.answer(SITE, "198.18.0.1", Probe((80, 443, 80)))
    assert (told.address, told.open) == ("198.18.0.1", (443,))
    assert tried == [("198.18.0.1", 80), ("198.18.0.1", 443)], "the caller's own address and no other"
    assert await refused(prober, SITE, "198.18.0.1") is Verdict.BUSY
    await prober.answer(Caller(Kind.SITE, "bank"), "198.18.0.2", Probe((80,)))
    now[0] += EVERY_S
    assert (await prober.answer(SITE, "198.18.0.1", Probe((443,)))).open == (443,)


async def test_a_real_port_accepts_or_does_not() -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await probe._accepts("127.0.0.1", port) == port
    server.close()
    await server.wait_closed()
    assert await probe._accepts("127.0.0.1", port) is None
