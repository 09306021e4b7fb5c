"""Topologies, matrices and experiments as files; the page's pictures; the report."""

import gzip
import io
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.lab import attacks, experiment, latency, load, phases, report, topology
from polder.lab.experiment import BadExperimentError, Experiment
from polder.lab.latency import NoMatrixError
from polder.lab.pictures import picture
from polder.lab.topology import BadTopologyError, Topology

DATA = os.environ.get("POLDER_DATA") or str(Path(__file__).parents[2].parent / "shared" / "data")


@given(st.integers(0, 2**32))
def test_the_synthetic_world_is_symmetric_positive_and_repeatable(seed: int) -> None:
    matrix = latency.synthetic(random.Random(seed))
    assert matrix == latency.synthetic(random.Random(seed))
    for a, row in enumerate(matrix.rtt_ms):
        assert all(rtt == matrix.rtt_ms[b][a] >= latency.ACCESS_MS for b, rtt in enumerate(row))
    here, there = matrix.place("Amsterdam"), matrix.place("New York")
    assert 70 < matrix.rtt_ms[here][there] < 110
    with pytest.raises(ValueError, match="there are: Amsterdam"):
        matrix.place("Atlantis")


def test_a_planetlab_file_gives_hosts_that_all_measured_each_other(tmp_path: Path) -> None:
    path = tmp_path / "m.gz"
    path.write_bytes(gzip.compress(b"0\t10\t0\t\n12\t0\t5\t7\n0\t5\t0\t3\n1\t7\t3\t0\n"))
    for seed in range(20):
        matrix = latency.planetlab(path, 3, random.Random(seed))
        assert all(rtt > 0 for row in matrix.rtt_ms for rtt in row)
        assert "host0" not in matrix.names or "host2" not in matrix.names
        if {"host0", "host1"} <= set(matrix.names):
            assert matrix.rtt_ms[matrix.place("host0")][matrix.place("host1")] == 11.0
    with pytest.raises(NoMatrixError, match="no 4 hosts"):
        latency.planetlab(path, 4, random.Random(1))


@pytest.mark.parametrize("text", [b"", b"0\t1\n", b"0\tx\nx\t0\n", b"\xff\xfe"])
def test_what_is_no_matrix_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(text)
    with pytest.raises(NoMatrixError):
        latency.load(str(path), 2, random.Random(1))
    with pytest.raises(NoMatrixError):
        latency.load(str(tmp_path / "absent"), 2, random.Random(1))


@pytest.mark.skipif(not Path(DATA, "latency").is_dir(), reason="no POLDER_DATA")
@pytest.mark.parametrize("number", [1, 8])
def test_the_real_matrices_are_read(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLDER_DATA", DATA)
    matrix = latency.load(f"planetlab:{number}", 60, random.Random(5))
    assert len(set(matrix.names)) == 60
    assert all(0 < rtt < 10_000 for row in matrix.rtt_ms for rtt in row)


def test_shipped_topologies_and_experiments_are_sound() -> None:
    for name in experiment.names():
        known = experiment.read(name)
        described = topology.load(known.topology).resized(known.counts)
        groups = {group.name for group in described.groups}
        assert {attack.bots for phase in known.phases for attack in phase.attacks} <= groups
        assert known.claims
        fields = {"pages", "good", "success", "goodput_mbit_s", "median_ms", "flood_mbit_s"}
        for claim in known.claims:
            assert claim.measure.field in fields
            assert claim.measure.where["phase"] in {phase.name for phase in known.phases}
    assert len(topology.load("demo").resized({"node": 3}).host_names()) == 1 + 3 + 4 + 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"groups": []}, "groups"),
        ({"groups": [{"name": "a"}, {"name": "a"}]}, "two hosts are called a"),
        ({"groups": [{"name": "isp"}], "site": {}}, "two hosts are called isp"),
        ({"colour": "red"}, "colour"),
        ({"wide_area": {"loss": 1.5}}, "loss"),
    ],
)
def test_a_topology_that_makes_no_sense_is_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Topology.model_validate({"name": "x", "groups": [{"name": "a"}]} | change)


def test_files_that_are_not_there_are_named() -> None:
    with pytest.raises(BadTopologyError, match="nowhere"):
        topology.load("nowhere")
    with pytest.raises(BadExperimentError, match="there are: bare-flood, demo, dialout, ring-flood, strangers"):
        experiment.read("nowhere")


def test_direct_phases_come_first() -> None:
    through = {"name": "a", "title": "A", "path": "polder"}
    with pytest.raises(ValueError, match="direct phases come before"):
        Experiment.model_validate({"name": "x", "title": "X", "phases": [through, {"name": "b", "title": "B"}]})


@given(st.integers(1, 1000), st.integers(12_000, 40_000))
def test_pictures_are_pictures_of_the_size_asked_for(number: int, size: int) -> None:
    from PIL import Image

    data = picture(number, size)
    assert len(data) == size
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (180, 120)
    assert picture(number, size) == data


def _outcome(name: str, loads: list[load.Load], raid: tuple[attacks.Attack, ...] = ()) -> phases.Outcome:
    reader = load.Reader(url="https://x/", start=0, duration=4, seed=1)
    outcome = phases.Outcome(phases.Plan(name, name.title(), 4.0, {"user": reader}, raid), start=100.0, loads=loads)
    outcome.samples = [phases.Sample(n / 2, 60.0 if raid else 0.0, 1.0, n) for n in range(-2, 12)]
    return outcome


def test_rows_say_what_readers_saw() -> None:
    loads = [load.Load(100 + n / 10, 0.1 * (n + 1), n < 9, 1000 if n < 9 else 400, "" if n < 9 else "late") for n in range(10)]
    row = _outcome("protected", loads, (attacks.UdpFlood(),)).row()
    assert (row["pages"], row["good"], row["success"]) == (10, 9, 0.9)
    assert row["goodput_mbit_s"] == pytest.approx(9 * 1000 * 8 / 4 / 1e6)
    assert (row["median_ms"], row["p99_ms"], row["flood_mbit_s"]) == (500.0, 900.0, 60.0)
    nothing = _outcome("quiet", []).row()
    assert (nothing["success"], nothing["median_ms"], nothing["goodput_mbit_s"]) == (0.0, None, 0.0)


def test_the_report_stands_alone(tmp_path: Path) -> None:
    good = [load.Load(100.5, 0.4, True, 1000), load.Load(101.5, 5.0, False, 0, "late")]
    names = ("unprotected", "quiet", "protected")
    outcomes = [_outcome(name, good if name != "unprotected" else good[1:]) for name in names]
    record = experiment.result_of(experiment.read("demo"), outcomes).record()
    started = time.monotonic()
    page = report.write(record, outcomes, tmp_path / "out", tmp_path)
    text = page.read_text()
    assert text.count("<td>") == 3 * 7 + len(record["claims"]) * 4
    assert "data:image/svg+xml;base64," in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert {file.name for file in page.parent.iterdir()} == {"demo.png", "demo.svg", "index.html"}
    assert time.monotonic() > started
