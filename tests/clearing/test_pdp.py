"""An ISP's policy decision point as a process: it sells, is killed, starts again, and charges nobody twice."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from polder.clearing.files import TILL
from polder.clearing.till import Till
from polder.keynote.signing import encode_private, wrap
from polder.model.reservations import Ask as Question
from polder.model.reservations import Verdict
from polder.pdp.client import PdpClient
from polder.shell.clock import wall
from tests.support.money import Alice, Ask, key, name_of
from tests.support.overlay import Process


def configure(root: Path) -> Path:
    (root / "isp.key").write_text(wrap(encode_private(key("nick"))))
    (root / "isp.key").chmod(0o600)
    (root / "isp.toml").write_text(
        f'name = "nick"\n[routes.dublin-nyc]\nlinks = ["edge/lasthop", "core/edge"]\n[trusted]\n"{name_of("martha")}" = "1.00"\n'
    )
    (root / "pdp.toml").write_text(f'socket = "{root}/pdp.sock"\nisp = "{root}/isp.toml"\n')
    return root / "pdp.toml"


def question(ask: Ask) -> Question:
    fields = {name: getattr(ask, name) for name in Question.__struct_fields__ if hasattr(ask, name)}
    return Question(**fields, min_unit=64, max_packet=1500)


def judged(root: Path, *asks: Ask) -> list[Verdict]:
    """What the process behind the socket says."""

    async def ask_all() -> list[Verdict]:
        client = PdpClient.to(f"unix:{root}/pdp.sock", 60.0)
        running = asyncio.create_task(client.run())
        try:
            found = await asyncio.gather(*(client.judge(question(ask)) for ask in asks))
        finally:
            running.cancel()
        assert None not in found, "no answer in a minute"
        return [one for one in found if one is not None]

    return asyncio.run(ask_all())


def test_it_sells_and_survives(tmp_path: Path) -> None:
    config, log = configure(tmp_path), tmp_path / "pdp.log"
    alice = Alice(now=wall())
    asks = [alice.ask(wall()) for _ in range(3)]
    pdp = Process(("pdp", "--config", str(config)), tmp_path, log).start()
    try:
        first = judged(tmp_path, *asks)
        assert [verdict.accepted for verdict in first] == [True] * 3 and len({verdict.charge for verdict in first}) == 3
        elsewhere, other = judged(tmp_path, asks[0].but(router="south"), asks[0].but(session="udp 198.18.1.9 port 1"))
        assert (elsewhere.code, other.code) == (3, 3)
    finally:
        pdp.stop(signal.SIGKILL)
    pdp = Process(("pdp", "--config", str(config)), tmp_path, log).start()
    try:
        again = judged(tmp_path, *asks, asks[0].but(router="core", link="edge"))
        assert [verdict.charge for verdict in again] == [verdict.charge for verdict in (*first, first[0])]
        assert [verdict.until for verdict in again[:3]] == [verdict.until for verdict in first]
    finally:
        pdp.stop()
    till = Till(tmp_path / TILL)
    assert {entry.charge for entry in till.waiting(9)} == {verdict.charge for verdict in first}
    till.close()
