"""The decision point as a service: what it reads again while routers stay connected, what it tells Prometheus and systemd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from polder.cli.pdp import Bench
from polder.keynote.signing import encode_private, wrap
from polder.model.reservations import Verdict
from polder.pdp.client import PdpClient
from polder.pdp.running import PdpShell
from polder.settings import ConfigError
from polder.settings.load import load
from polder.settings.rsvp import PdpSettings
from polder.shell.clock import wall
from polder.shell.metrics import known
from polder.shell.process import Closeable
from tests.clearing.test_pdp import question
from tests.pdp.test_pdp import KEY, POLICY, ask, grant
from tests.support.money import Alice, key, name_of


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[tuple[PdpShell, PdpClient]]:
    """The service with one router that stays connected."""
    shell = await PdpShell.start(load(PdpSettings, config, {}), Bench(str(config)))
    router = PdpClient.to(shell.endpoints[0], 60.0)
    task = asyncio.create_task(router.run())
    try:
        yield shell, router
    finally:
        task.cancel()
        await shell.close(1.0)


async def test_another_policy_counts_at_once_and_a_broken_one_never(tmp_path: Path) -> None:
    policy, config = tmp_path / "policy.kn", tmp_path / "pdp.toml"
    policy.write_text(POLICY)
    config.write_text(f'socket = "{tmp_path}/pdp.sock"\npolicy = "{policy}"\n')
    asked = ask(bundle=grant('Conditions: @rate <= 3000000 -> "reserve";\n'))
    async with running(config) as (shell, router):
        before = await router.judge(asked)
        assert before is not None
        assert before.accepted
        policy.write_text('Authorizer: "POLICY"\nLicensees: "router:edge"\nConditions: rate < 5;\n')
        with pytest.raises(ConfigError, match="compares string with integer"):
            shell.configure(load(PdpSettings, config, {}))
        assert await router.judge(asked) == Verdict(True, 0, before.reason, pytest.approx(before.until, abs=600), "")
        policy.write_text(f'Authorizer: "POLICY"\nLicensees: "{KEY}"\nConditions: @rate < 5 -> "reserve";\n')
        shell.configure(load(PdpSettings, config, {}))
        after = await router.judge(asked)
        assert after is not None
        assert (after.accepted, after.code) == (False, 3)
        numbers = shell.numbers()
        assert numbers.keys() <= known().keys()
        assert numbers["pdp_decisions"] == {"accepted": 2, "failed": 0, "refused-rejected": 1}
        assert (numbers["pdp_connections_open"], numbers["keynote_queries"]) == (1, 3)
        assert not isinstance(shell, Closeable), "it hands nothing over, and says so to whoever asks for an upgrade"


def test_one_that_nobody_could_ask_is_refused_in_words(tmp_path: Path) -> None:
    config = tmp_path / "pdp.toml"
    config.write_text('socket = ""\n')
    with pytest.raises(ConfigError, match="neither socket nor listen"):
        load(PdpSettings, config, {})


async def test_other_prices_of_trust_count_at_once_and_the_till_stays(tmp_path: Path) -> None:
    config = tmp_path / "pdp.toml"
    (tmp_path / "isp.key").write_text(wrap(encode_private(key("nick"))))
    (tmp_path / "isp.key").chmod(0o600)
    config.write_text(f'socket = "{tmp_path}/pdp.sock"\nisp = "{tmp_path}/isp.toml"\n')

    def trust(amount: str) -> None:
        routes = '[routes.dublin-nyc]\nlinks = ["edge/lasthop", "core/edge"]\n'
        (tmp_path / "isp.toml").write_text(f'name = "nick"\n{routes}[trusted]\n"{name_of("martha")}" = "{amount}"\n')

    trust("1.00")
    alice = Alice(now=wall())
    asks = [question(alice.ask(wall())) for _ in range(2)]
    async with running(config) as (shell, router):
        first = await router.judge(asks[0])
        assert first is not None
        assert first.accepted
        trust("0.000001")
        shell.configure(load(PdpSettings, config, {}))
        second = await router.judge(asks[1])
        assert second is not None
        assert not second.accepted
        trust("1.00")
        shell.configure(load(PdpSettings, config, {}))
        again = await router.judge(asks[0])
        assert again is not None
        assert again.charge == first.charge, "known from before the reloads, and not charged again"
        numbers = shell.numbers()
        assert numbers.keys() <= known().keys()
        assert numbers["desk_checks"] == 1
        outcomes = numbers["desk_decisions"]
        assert isinstance(outcomes, dict)
        assert outcomes["accepted"] == 2, "counted on over the reloads"


def test_systemd_hears_of_its_life(tmp_path: Path) -> None:
    """``sd_notify(3)``: ready, alive while the loop turns, a reload from its begin to its end; an upgrade is refused, and it lives on."""
    (tmp_path / "policy.kn").write_text(POLICY)
    (tmp_path / "pdp.toml").write_text(f'socket = "{tmp_path}/pdp.sock"\npolicy = "{tmp_path}/policy.kn"\n')
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(300.0)
    command = [sys.executable, "-m", "polder.cli.main", "pdp", "--config", str(tmp_path / "pdp.toml")]
    env = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}

    def until(*lines: str) -> None:
        """Read messages until these have come, in this order."""
        for line in lines:
            while line not in told.recv(4096).decode().splitlines():
                pass

    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            until("READY=1", "WATCHDOG=1", "WATCHDOG=1")
            process.send_signal(signal.SIGHUP)
            until("RELOADING=1", "READY=1", "WATCHDOG=1")
            process.send_signal(signal.SIGUSR2)
            while "hands nothing over" not in (line := process.stderr.readline()):
                assert line, "it ended"
            until("WATCHDOG=1")
            process.terminate()
            until("STOPPING=1")
            assert process.wait(300) == 0
        finally:
            process.kill()
    told.close()
