"""The laboratory with real namespaces, devices, servers and floods; and that it leaves nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from polder.engine import laboratory
from polder.lab import enclosure, topology
from polder.lab.world import World
from tests.support.namespaces import need_namespaces

pytestmark = pytest.mark.lab


def command(name: str, directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.lab.inside", name, str(directory)]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    need_namespaces()


@pytest.mark.parametrize("name", ["distances", "floods", "strangers", "reading", "spreading", "moving", "last_hops", "mistakes"])
def test_inside(name: str, tmp_path: Path) -> None:
    done = subprocess.run(command(name, tmp_path), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _networks() -> set[int]:
    """Network namespaces that some process is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add((process / "ns/net").stat().st_ino)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_however_it_ends(how: signal.Signals, tmp_path: Path) -> None:
    mounts, links = Path("/proc/self/mountinfo").read_text(), sorted(Path("/sys/class/net").iterdir())
    with subprocess.Popen(command("forever", tmp_path), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, network, _ = process.stdout.readline().split()
        assert word == "up"
        assert int(network) in _networks()
        process.send_signal(how)
        process.stdout.read()  # ends when the last process that holds it has ended
        process.wait(30)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert int(network) not in _networks()
    assert (Path("/proc/self/mountinfo").read_text(), sorted(Path("/sys/class/net").iterdir())) == (mounts, links)
    assert not Path("/run/polder-lab").exists()


def test_outside_nothing_is_built_or_attacked(tmp_path: Path) -> None:
    assert not enclosure.inside()
    with pytest.raises(RuntimeError, match="inside the laboratory"):
        World(topology.load("demo"), tmp_path)
    with pytest.raises(RuntimeError, match="inside the laboratory"):
        enclosure.show_as(tmp_path, Path("/etc/hosts"))
    flood = {"kind": "udp", "target": {"V4": [198, 19, 2, 10]}, "port": 0, "source": None, "rate": 1, "size": 100}
    with pytest.raises(PermissionError, match="not a laboratory"):
        laboratory.run("flood", flood | {"milliseconds": 10, "seed": 1})
    with pytest.raises(ValueError, match="configuration"):
        laboratory.run("flood", {"kind": "udp"})
    with pytest.raises(ValueError, match="no tool"):
        laboratory.run("fishing", {})
    assert msgspec.msgpack.encode(flood)
