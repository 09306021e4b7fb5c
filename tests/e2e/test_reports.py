"""What parts of a running overlay tell those who run it, and tell nobody else."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polder.api.admin import ask
from polder.api.operator import open_console
from polder.dashboard.source import Source
from polder.engine import CallFailed
from polder.incident import archive
from polder.model.admin_messages import Report, ReportQuery
from polder.settings import StateDir
from polder.settings.identity import IdentityDir
from polder.shell.console import Console, Credentials
from tests.e2e.conftest import NODES, World
from tests.support.overlay import POLDER, environment, polder, until


@pytest.fixture(scope="module")
def admin(world: World) -> Iterator[str]:
    """An enrolled operator; the name of his state."""
    token = world.overlay.token("admin", "oona")
    where = world.overlay
    polder(where.state("oona"), "enroll", where.url, "--pin", where.pin, "--token-file", "-", stdin=token)
    yield "oona"


def test_every_node_reports_to_an_operator_without_telling_roles(world: World, admin: str) -> None:
    path = world.overlay.state(admin) / "admin" / admin

    async def reports() -> dict[str, Report | CallFailed]:
        console = await open_console(path)
        try:
            members = await console.find_members(IdentityDir.load(path).members)
            return await console.ask_all([m for m in members if m.name in NODES], "report", ReportQuery())
        finally:
            await console.close(0.0)

    found = asyncio.run(reports())
    assert set(found) == set(NODES)
    for name, report in found.items():
        assert isinstance(report, Report), report
        status = world.overlay.node_status(name)
        assert (report.joined, report.members, report.sites) == (True, status["members"], 3)
        assert report.certificate_valid_for_s > 0 and report.links_up > 0 and report.counters["calls_in"] > 0
        assert not any("dialout" in key or "gre" in key for key in report.counters)


def test_nobody_else_gets_a_report(world: World) -> None:
    """Neither a node nor a site; users make no calls at all."""
    overlay = world.overlay
    for directory in (overlay.state("n4") / "node", overlay.state("site-wiki") / "site" / "wiki"):
        identity = IdentityDir.load(directory)

        async def refused(identity: IdentityDir = identity) -> None:
            console = Console(Credentials.of(identity))
            try:
                member = next(m for m in identity.members if m.name in NODES)
                with pytest.raises(CallFailed) as failure:
                    await console.call(member, "report", ReportQuery())
                assert failure.value.status == 403
            finally:
                await console.close(0.0)

        asyncio.run(refused())


def test_shells_look_back(world: World) -> None:
    """History and log tail of a node, a site's agent and a forwarder."""
    overlay = world.overlay
    subprocess.run(["curl", "-sS", "-x", f"http://{world.proxy}", "http://wiki.test/"], check=True, capture_output=True)
    places = {
        "node": overlay.state("n1") / "node",
        "site": overlay.state("site-wiki") / "site" / "wiki",
        "user": overlay.state("user-ann") / "user" / "ann",
    }
    for kind, directory in places.items():
        socket = directory / "admin.sock"

        def sampled(socket: object = socket) -> bool:
            return len(asyncio.run(ask(socket, "history", {"seconds": 60}))["times"]) >= 2  # type: ignore[arg-type]

        until(sampled, f"two samples of the {kind}")
        history = asyncio.run(ask(socket, "history", {"seconds": 60, "names": "rss_bytes,connections"}))
        assert set(history["values"]) == {"rss_bytes", "connections"} and history["values"]["rss_bytes"][-1] > 1 << 20
        assert isinstance(asyncio.run(ask(socket, "logs", {"count": 5}))["lines"], list)


def test_status_and_doctor_of_every_part(world: World, admin: str) -> None:
    """One line and a next step for each; an operator sees all nodes; nothing of a running overlay is wrong."""
    overlay = world.overlay
    seen = polder(overlay.state(admin), "status")
    assert seen["overlay"]["silent"] == [] and seen["overlay"]["alive"] == seen["overlay"]["nodes"] == len(NODES)
    for state in ("n1", "site-wiki", "user-ann"):
        told = polder(overlay.state(state), "status")
        assert told["parts"][0]["running"] and not [each for each in told["findings"] if each["level"] != "note"], told
        findings = polder(overlay.state(state), "doctor")
        assert findings["wrong"] == 0, findings
    assert (
        "polder node run"
        in subprocess.run([*POLDER, "status"], env=environment(overlay.state("n4")), capture_output=True, text=True).stdout
    )
    assert polder_status(overlay.state("n4")) == 3


def polder_status(state: Path) -> int:
    """Exit status of ``polder status``."""
    return subprocess.run([*POLDER, "status"], env=environment(state), capture_output=True).returncode


def test_an_operator_sees_the_past_of_nodes_elsewhere(world: World, admin: str, tmp_path: Path) -> None:
    """Graphs are full from the start, and an operator's export holds every node's last minutes, under pseudonyms."""
    overlay = world.overlay

    async def histories() -> dict[str, Any]:
        source = Source(StateDir(overlay.state(admin)))
        try:
            return dict(await source.histories())
        finally:
            await source.close()

    def full() -> bool:
        found = asyncio.run(histories())
        return set(found) == {f"node/{name}" for name in NODES} and all(len(past["times"]) > 2 for past in found.values())

    until(full, "the past of all nodes")
    for past in asyncio.run(histories()).values():
        assert not any("dialout" in name or "gre" in name for name in past["values"]) and "tunnels" in past["values"]
    told = polder(overlay.state(admin), "incident", "export", str(tmp_path / "x.tar.gz"))
    _, files = archive.read(tmp_path / "x.tar.gz")
    assert told["parts"] == len(NODES) and sum(name.endswith("history-ten-minutes.json") for name in files) == len(NODES)
    assert not any(f"node/{name}/" in file for name in NODES for file in files)
