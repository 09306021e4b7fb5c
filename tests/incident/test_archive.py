"""An export is whole, private and says when it was changed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.incident import archive
from polder.incident.archive import BadArchive
from polder.incident.peaks import courses
from polder.incident.report import page

FILES = {"a.json": b"{}", "parts/x/log.jsonl": b"line\n" * 1000}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    archive.write(file, FILES, {"version": "1", "parts": 2}, 1_000_000.0)
    assert file.stat().st_mode & 0o777 == 0o600
    manifest, files = archive.read(file)
    assert files == FILES and manifest["parts"] == 2 and manifest["made"] == 1_000_000.0
    with pytest.raises(FileExistsError):
        archive.write(file, FILES, {}, 0.0)


def forge(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"polder-incident/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_what_was_changed_added_or_left_out_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    archive.write(file, FILES, {}, 0.0)
    manifest, files = archive.read(file)
    good = {"manifest.json": json.dumps(manifest).encode(), **files}
    forge(tmp_path / "same.tar.gz", good)
    assert archive.read(tmp_path / "same.tar.gz")[1] == files
    for number, changed in enumerate(
        (
            good | {"a.json": b"{ }"},
            good | {"more": b""},
            {name: data for name, data in good.items() if name != "a.json"},
            {name: data for name, data in good.items() if name != "manifest.json"},
            good | {"manifest.json": b"[]"},
            good | {"manifest.json": b'{"format": 9, "files": []}'},
        )
    ):
        forge(tmp_path / f"{number}.tar.gz", changed)
        with pytest.raises(BadArchive):
            archive.read(tmp_path / f"{number}.tar.gz")


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        with pytest.raises(BadArchive):
            archive.read(Path(file.name))


def test_links_and_bombs_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("polder-incident/manifest.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BadArchive):
        archive.read(tmp_path / "link.tar.gz")
    forge(tmp_path / "bomb.tar.gz", {f"{n}": bytes(1 << 20) for n in range(66)})
    with pytest.raises(BadArchive):
        archive.read(tmp_path / "bomb.tar.gz")


def test_peaks_and_the_page() -> None:
    history = {
        "step": 1,
        "times": [1, 2, 3, 4],
        "values": {"tunnels": [0, 10, 40, 41], "bytes_up": [0, 0, 0, 0], "failovers": [5, 5, 2, 2]},
    }
    (course,) = courses("node/<n>", history)
    assert (course.name, course.peak, course.peak_at) == ("tunnels opened/s", 30, 3)
    facts = {"made": 4.0, "version": "1", "revealed": False}
    wrong = [{"check": "clock", "good": False, "what": "<b>late</b>", "cure": "mend"}]
    text = page(facts, [("node/<n>", "answers")], wrong, [(3, "warning", "<script>")], [course])
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>late" not in text and 'role="img"' in text
    assert "Nothing was counted" in page(facts, [], [], [], [])
