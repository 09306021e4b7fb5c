"""What the page may ask for reaches whom it is meant for."""

from __future__ import annotations

from pathlib import Path

import pytest

from polder.cli.dashboard import _act
from polder.dashboard.source import Source
from polder.dashboard.values import Level, View
from polder.drill.plan import CannotDrill
from polder.settings import StateDir


def view(kind: str, title: str) -> View:
    return View(kind, title, 0.0, Level.GOOD, "Quiet")


async def test_actions_go_to_the_overlay_or_to_the_site(tmp_path: Path) -> None:
    source = Source(StateDir(tmp_path))
    with pytest.raises(CannotDrill, match="no operator is enrolled here"):
        await _act(source, view("operator", "Overlay"), "drill", "")
    for action, choice in (("rotate", ""), ("burn", "n1")):
        with pytest.raises(FileNotFoundError, match=r"site/wiki/admin\.sock"):
            await _act(source, view("owner", "Site wiki"), action, choice)
    with pytest.raises(ValueError, match="no such action"):
        await _act(source, view("user", "Reading as ann"), "drill", "")
