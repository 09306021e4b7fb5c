"""``polder plan``: what it says to people and programs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from polder.cli.main import polder
from polder.planning.chances import Shape, denied


def _run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(polder, ["plan", *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.output


def test_a_strike() -> None:
    status, text = _run("--nodes", "50", "--attacked", "15", "--json")
    told = json.loads(text)
    choice = told["choice"]
    assert status == 0 and told["enough"] and choice["denied"] <= 0.001
    assert choice["denied"] == denied(Shape(50, choice["access_points"], choice["servlets"], choice["beacons"], 1), 15)
    assert told["defaults"]["denied"] == denied(Shape(50, 50, 2), 15) > 0.001
    assert [row["attacked_ratio"] for row in told["table"]] == [n / 10 for n in range(1, 10)]
    assert f"servlets = {choice['servlets']} in each site.toml" in told["next"]


def test_an_attack_that_goes_on() -> None:
    status, text = _run("--nodes", "100", "--strikes-per-hour", "60", "--lasting", "10m")
    assert status == 0 and "10.0% are down" in text and "Next: " in text


def test_defaults_that_are_enough() -> None:
    _, text = _run("--nodes", "100", "--attacked", "1", "--availability", "99")
    assert "servlets = " not in text and "beacons = " not in text


def test_no_choice_is_a_finding_that_says_what_would_help() -> None:
    status, text = _run("--nodes", "20", "--attacked", "19", "--json")
    told = json.loads(text)
    assert status == 3 and not told["enough"] and told["enough_nodes"] > 20
    assert str(told["enough_nodes"]) in told["next"]
    assert _run("--nodes", str(told["enough_nodes"]), "--attacked", "19")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--nodes", "10", "--attacked", "12"), "from 0 to 10"),
        (("--nodes", "10"), "say which attack"),
        (("--nodes", "10", "--attacked", "1", "--strikes-per-hour", "3"), "say which attack"),
        (("--nodes", "0", "--attacked", "0"), "not in the range"),
    ],
)
def test_errors_say_how_to_mend(arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(Exception, match=why):
        _run(*arguments)
