"""An agent's side of the socket, at helpers that answer late or have gone."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from polder.host import HostError, HostHelper, client
from polder.host.messages import MAX_MESSAGE, Done, Failed, FilterState, encode
from polder.perimeter import Plan
from polder.settings.site import SiteSettings
from polder.site.perimeter import Perimeter


def listen(path: Path) -> socket.socket:
    """Where a helper would listen."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(60.0)
    return listener


async def test_an_answer_that_comes_late_is_not_taken_for_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LIMIT_S", 0.05)
    with listen(tmp_path / "sock") as listener:
        host = HostHelper(tmp_path / "sock")
        agent, _ = listener.accept()
        assert not host.gone()
        with pytest.raises(HostError, match="does not answer") as first:
            await host.shape("eth1", 1_000_000)
        assert first.value.retry
        agent.recv(MAX_MESSAGE)
        with pytest.raises(BrokenPipeError):
            agent.send(encode(Failed("too late")))
        with pytest.raises(HostError, match="cannot reach"):
            await host.shape("eth1", 2_000_000)
        assert host.gone(), "so that its owner connects again, and asks for everything anew"
        assert agent.recv(MAX_MESSAGE) == b"", "and the helper takes back what it has made"
        await host.close()
        agent.close()


async def test_a_site_puts_its_filter_in_force_at_a_helper_that_was_started_anew(tmp_path: Path) -> None:
    settings = SiteSettings(name="wiki", origin="http://127.0.0.1:80", edge="198.19.1.2", filter_helper=str(tmp_path / "sock"))
    perimeter, plan = Perimeter(tmp_path / "filter.json", settings, 60.0), Plan("wiki", 1, ("198.19.1.2",))
    with listen(tmp_path / "sock") as listener:

        def serve() -> None:
            """Take an agent, answer once, and end."""
            agent, _ = listener.accept()
            agent.recv(MAX_MESSAGE)
            agent.send(encode(FilterState("wiki", True, None, {})))
            agent.close()

        for _ in range(2):
            serving = asyncio.create_task(asyncio.to_thread(serve))
            await perimeter.apply(plan)
            await serving
            assert await perimeter.counters() == {}
        await perimeter.close()


async def test_a_helper_that_hung_up_is_noticed_without_a_question(tmp_path: Path) -> None:
    with listen(tmp_path / "sock") as listener:
        host = HostHelper(tmp_path / "sock")
        agent, _ = listener.accept()
        agent.send(encode(Done()))
        await host.shape("eth1", None)
        assert not host.gone()
        agent.close()
        assert host.gone()
        await host.close()
        assert host.gone()
