"""The page of reservations: each command on it is one that can be typed, and its configuration is one that is read."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from polder.cli.main import polder
from polder.settings.load import SECTIONS
from polder.settings.money import IspSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/site/journey-7.md").read_text()
LINES = [line for block in re.findall(r"```sh \w+\n(.*?)```", PAGE, re.S) for line in block.strip().splitlines()]


@pytest.mark.parametrize("line", LINES)
def test_commands_can_be_typed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("offer.kn", "bundle.kn", "alice.key", "alice.pub", "bank.key"):
        Path(name).touch()
    program, *words = shlex.split(line)
    if program == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.M), line
        return
    assert program == "polder"
    command: click.Command = polder
    context = click.Context(polder)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context(line, words)  # raises when an option or argument is not one


def test_the_configuration_is_read() -> None:
    blocks = re.findall(r"```toml\n# \S*/(\w+)\.toml[^\n]*\n(.*?)```", PAGE, re.S)
    found = {section: SECTIONS[section].model_validate(tomllib.loads(text)) for section, text in blocks}
    settings = found["isp"]
    assert isinstance(settings, IspSettings)
    assert settings.trusted == {"ed25519-base64:…": 1_000_000}
    assert settings.routes["lasthop"].pairs() == {("edge", "lasthop")}
