"""The README and the journey pages are true: a new user types every command, and it does what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.typed import blocks

ROOT = Path(__file__).parents[2]
PAGES = [*(f"docs/site/journey-{n}.md" for n in range(1, 7)), "docs/site/runbook.md"]
Said = dict[str, dict[str, str]]
"""Page → command → what it said."""

# The story is told once, in namespaces.


@pytest.fixture(scope="module")
def said() -> Said:
    """What the commands of all pages said, when they were typed one after the other."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-m", "tests.e2e.journeys_inside", root, *PAGES]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, cwd=ROOT)
    if done.returncode == 77:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    told: dict[str, list[list[str]]] = json.loads(done.stdout.strip().splitlines()[-1])
    return {page: {command: text for _, command, text in lines} for page, lines in told.items()}


def answer(said: Said, page: int, begins: str) -> str:
    """What the first command of a page that begins so said."""
    return next(text for command, text in said[PAGES[page - 1]].items() if command.startswith(begins))


@pytest.mark.lab
def test_the_demo_is_in_the_menu(said: Said) -> None:
    assert "polder demo" in answer(said, 1, "make demo")
    assert "polder demo --keep" in answer(said, 1, "make demo ARGS=--keep")


@pytest.mark.lab
def test_an_operator_has_a_ring_of_three_and_sees_it(said: Said) -> None:
    assert "Next: polder authority serve" in answer(said, 2, "polder init")
    assert re.search(r"Nodes +3 / 3", answer(said, 2, "polder watch --once"))
    assert "accepts connections" in answer(said, 2, "polder doctor")


@pytest.mark.lab
def test_a_site_is_protected_and_its_filter_is_in_force(said: Said) -> None:
    assert "2 nodes tried to reach it directly and could not" in answer(said, 3, "polder protect")
    assert "answers of a node" in answer(said, 3, "polder filter plan")
    assert "goes back in 1m" in answer(said, 3, "polder filter export wiki --format plan")
    assert "wiki" in answer(said, 3, "ssh router polder filter confirm")
    assert re.search(r"Servlets +2  serve", answer(said, 3, "polder watch wiki --once"))


@pytest.mark.lab
def test_a_user_reads_it(said: Said) -> None:
    assert "The wiki is up" in answer(said, 4, "curl")
    assert {"ann.p12", "polder.pac", "README.html"} <= set(answer(said, 4, "ls ann").split())


@pytest.mark.lab
def test_attack_and_rehearsal(said: Said) -> None:
    assert "Rotating" in answer(said, 5, "polder site rotate")
    assert "Users noticed nothing" in answer(said, 5, "polder drill node-kill")


@pytest.mark.lab
def test_who_was_revoked_comes_back_with_another_key(said: Said) -> None:
    assert "revocation epoch" in answer(said, 6, "polder revoke user ann")
    assert "Enrolled as spiffe://overlay.example.org/user/ann" in answer(said, 6, "polder enroll")


@pytest.mark.lab
def test_issuer_and_backup_can_be_tried(said: Said) -> None:
    assert "Next:" in answer(said, 6, "polder rotate issuer --plan")
    assert "Next:" in answer(said, 6, "polder rotate issuer --abort")
    assert "authority.backup" in answer(said, 6, "polder restore")


@pytest.mark.lab
def test_the_runbook_can_be_followed(said: Said) -> None:
    assert "goes back in 1m" in answer(said, 7, "polder filter export wiki --format plan")
    assert "attack.tar.gz" in answer(said, 7, "polder incident show")


def test_every_block_of_commands_says_where_it_is_typed() -> None:
    for page in ("README.md", *PAGES):
        for info in re.findall(r"^```(\S.*)$", (ROOT / page).read_text(), re.M):
            assert re.fullmatch(r"sh [a-z-]+", info), f"{page}: ```{info}"


def test_the_commands_of_the_readme_are_those_of_the_journeys() -> None:
    journeys = {(line.machine, line.text) for page in PAGES for line in blocks((ROOT / page).read_text())}
    readme = list(blocks((ROOT / "README.md").read_text()))
    assert len(readme) >= 10
    assert [line for line in readme if (line.machine, line.text) not in journeys] == []
