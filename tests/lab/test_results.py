"""Results are files whose claims follow from their rows."""

import json
import subprocess

import pytest

from polder.lab import results
from polder.lab.results import BadResult, Claim, Measure, Result

ROWS = [
    {"phase": "quiet", "page_ms": 100.0, "pages": 10},
    {"phase": "flood", "page_ms": 110.0, "pages": 9},
    {"phase": "note"},
]


@pytest.mark.parametrize(
    ("measured", "target", "good"),
    [(1.0, "<= 1", True), (1.1, "<= 1", False), (1.0, "< 1", False), (2, ">= 1.5", True), (0, "== 0", True), (2, "> 2", False)],
)
def test_targets_compare(measured, target, good):
    assert results.holds(measured, target) is good


@pytest.mark.parametrize("target", ["", "about 3", "<=", "<= x", "=< 3"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(BadResult, match="not a target"):
        results.holds(1.0, target)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure("page_ms", {"phase": "flood"}), 110.0),
        (Measure("page_ms", fold="max"), 110.0),
        (Measure("pages", fold="sum"), 19.0),
        (Measure("pages", {"phase": "absent"}, "count"), 0.0),
        (Measure("page_ms", {"phase": "flood"}, over=Measure("page_ms", {"phase": "quiet"})), 1.1),
    ],
)
def test_measures_fold_the_rows_they_name(measure, expected):
    assert measure.of(ROWS) == pytest.approx(expected)
    assert Measure.read(json.loads(json.dumps(measure.record()))).of(ROWS) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [Measure("page_ms"), Measure("absent", fold="max"), Measure("pages", fold="magic")])
def test_a_measure_without_one_meaning_is_refused(measure):
    with pytest.raises(BadResult):
        measure.of(ROWS)


def _result() -> Result:
    ratio = Measure("page_ms", {"phase": "flood"}, over=Measure("page_ms", {"phase": "quiet"}))
    return Result("demo", {"seed": 1}, ROWS, [Claim("demo.page", "pages stay quick", "<= 1.2", ratio)], "The demo")


def test_written_results_are_read_back_and_tabulated(tmp_path):
    path = results.write(_result(), lambda figure, rows: figure.subplots().plot([r.get("pages", 0) for r in rows]), tmp_path)
    (raw,) = results.read_all(tmp_path)
    assert (raw["name"], raw["claims"][0]["holds"], raw["claims"][0]["measured"]) == ("demo", True, 1.1)
    assert {"commit", "machine", "parameters", "rows"} <= raw.keys()
    table = (tmp_path / "README.md").read_text()
    assert "| [The demo](demo.json) ([plot](demo.svg))" in table and "| <= 1.2 | 1.1 | yes |" in table
    assert (tmp_path / "demo.svg").read_text().count("<svg") == 1
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == [], path


def test_a_claim_edited_by_hand_is_found(tmp_path):
    path = results.write(_result(), directory=tmp_path)
    raw = json.loads(path.read_text())
    raw["rows"][1]["page_ms"] = 500.0
    path.write_text(json.dumps(raw))
    with pytest.raises(BadResult, match="does not follow"):
        results.read(path)
    path.write_text("{}")
    with pytest.raises(BadResult, match="not a result file"):
        results.read(path)


def test_a_claim_about_what_nobody_measured_does_not_hold(tmp_path):
    claim = Claim("x", "pages stay quick", "<= 1.2", Measure("page_ms", {"phase": "note"}))
    results.write(Result("none", {}, ROWS, [claim]), directory=tmp_path)
    (raw,) = results.read_all(tmp_path)
    assert (raw["claims"][0]["measured"], raw["claims"][0]["holds"]) == (None, False)
    assert "| nothing | **no** |" in (tmp_path / "README.md").read_text()


def test_a_commit_is_marked_when_code_differs_from_it_and_not_when_results_do(tmp_path, monkeypatch):
    def git(*arguments):
        names = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        return subprocess.run(["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True, text=True).stdout

    (tmp_path / "bench" / "results").mkdir(parents=True)
    (old := tmp_path / "bench" / "results" / "a.json").write_text("{}")
    (code := tmp_path / "pyproject.toml").write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").strip()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POLDER_RESULTS", raising=False)
    old.write_text("{ }")
    assert results.commit() == head
    code.write_text("[project]")
    assert results.commit() == head + "+"
