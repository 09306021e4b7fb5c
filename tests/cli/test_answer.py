"""What commands have in common."""

from __future__ import annotations

import io
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from polder.cli.answer import DURATION, answer, common, find_state, read_secret
from polder.settings import ConfigError


def test_answers_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    answer({"a": 1}, "Done.", "rest", as_json=False)
    answer({"a": 1}, "Done.", "", as_json=False)
    assert capsys.readouterr().out == "Done.\nNext: rest\nDone.\n"
    answer({"a": 1}, "Done.", "rest", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 1, "next": "rest"}


def test_secrets_come_from_a_file_or_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("  hidden \nsecond line\n")
    assert read_secret(str(file), "token") == "hidden"
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\nmore\n"))
    assert read_secret("-", "token") == "typed"
    assert read_secret("-", "token") == "more"
    for source in ("-", str(tmp_path / "absent"), str(tmp_path)):
        with pytest.raises(ConfigError, match="token"):
            read_secret(source, "token")


@click.command()
@click.option("--ttl", type=DURATION, default="30m")
@common
def command(ttl: float, state: str | None, as_json: bool) -> None:
    answer({"ttl": ttl, "state": str(find_state(state).root)}, "", "", as_json=as_json)


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("90", 90), ("1h30m", 5400)])
def test_options(text: str, seconds: float) -> None:
    done = CliRunner().invoke(command, ["--ttl", text, "--state", "/s", "--json"])
    assert json.loads(done.output) == {"ttl": seconds, "state": "/s", "next": ""}


def test_a_bad_duration_is_a_usage_error() -> None:
    done = CliRunner().invoke(command, ["--ttl", "soon"])
    assert done.exit_code == 2
    assert "not a duration" in done.output
