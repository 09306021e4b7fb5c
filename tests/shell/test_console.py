"""The console against real nodes: an enrolled operator asks them, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from polder.api.operator import open_console
from polder.engine import CallFailed
from polder.model import Member
from polder.model.overlay_messages import Members, MembersQuery, SecretsQuery
from polder.settings.identity import IdentityDir
from tests.support.overlay import Overlay, free_port, polder


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    """Two nodes and an enrolled operator."""
    made = Overlay(tmp_path)
    try:
        made.found()
        for name in ("n1", "n2"):
            made.enrol_node(name)
            made.run_node(name)
        made.wait_ring(2)
        token = made.token("admin", "oona")
        polder(made.state("oona"), "enroll", made.url, "--pin", made.pin, "--token-file", "-", stdin=token)
        yield made
    finally:
        made.close()


def test_an_operator_asks_all_nodes_at_once(overlay: Overlay) -> None:
    """Answers and failures come by name; one dead node does not harm the others; the members are found through any node."""
    path = overlay.state("oona") / "admin" / "oona"
    dead = Member.of("n9", 9, f"127.0.0.1:{free_port()}")

    async def ask() -> None:
        console = await open_console(path)
        try:
            members = await console.find_members((dead, *IdentityDir.load(path).members))
            assert {member.name for member in members} == {"n1", "n2", "n9"}
            answers = await console.ask_all(members, "members", MembersQuery())
            assert all(isinstance(answers[name], Members) for name in ("n1", "n2"))
            assert isinstance(failure := answers["n9"], CallFailed) and failure.status == 0
            with pytest.raises(CallFailed) as refused:
                await console.call(next(m for m in members if m.name == "n1"), "secrets", SecretsQuery())
            assert refused.value.status == 403, "beacon keys' secrets are for nodes"
        finally:
            await console.close(0.0)

    asyncio.run(ask())
