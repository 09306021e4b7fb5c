"""The stored site: sizes as its tables say, the same bytes every time; and a reader that finds all its parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from polder.lab import load, pageset


def digest(www: Path) -> str:
    one = hashlib.sha256()
    for file in sorted(www.rglob("*.*")):
        one.update(file.name.encode() + file.read_bytes())
    return one.hexdigest()


def test_pages_have_the_sizes_and_requests_of_the_tables(tmp_path: Path) -> None:
    pages = pageset.write(tmp_path)
    index, *others = pages
    assert index.requests == 1 + sum(kind.count for kind in pageset.INDEX)
    assert abs(index.total - pageset.INDEX_HTML - sum(kind.total for kind in pageset.INDEX)) < 100
    for page, (requests, total) in zip(others, pageset.COLLECTION, strict=True):
        assert page.requests == requests
        assert abs(page.total - total) < 3000, "a page's own text is at least the list of its parts"
    for page in pages:
        folder = tmp_path / page.path.strip("/")
        assert sum(file.stat().st_size for file in folder.iterdir()) == page.total


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pageset.write(tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_readers_find_every_part(tmp_path: Path) -> None:
    for page in pageset.write(tmp_path):
        html = (tmp_path / page.path.strip("/") / "index.html").read_bytes()
        parts = load._PART.findall(html)
        assert len(parts) == len(set(parts)) == page.requests - 1
        assert all((tmp_path / part.decode().strip("/")).is_file() for part in parts)
