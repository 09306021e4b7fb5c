"""What the documents name exists: tests, knobs, counters, files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polder.settings.load import SECTIONS
from polder.shell.metrics import known

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / name for name in ("SECURITY.md", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
_TEST = re.compile(r"`((?:tests|crates|fuzz|bench|python|scripts|deploy)/[\w/.-]+)(?:::(\w+))?`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    for place, name in _TEST.findall(document.read_text()):
        if "NAME" in place:
            continue  # a pattern, not a file
        path = ROOT / place
        assert path.exists() or (ROOT / f"{place}.rs").exists() or (ROOT / f"{place}.py").exists(), f"{document.name}: {place}"
        if name:
            assert re.search(rf"\b(?:def|fn) {name}\b", path.read_text()), f"{document.name}: {place}::{name}"


def _knobs() -> set[str]:
    names: set[str] = set()
    for section in SECTIONS.values():
        names |= set(section.model_fields)
    limits = SECTIONS["node"].model_fields["limits"].annotation
    assert limits is not None
    return names | set(limits.model_fields)


def test_knobs_and_counters_of_the_security_table_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text().partition("## Defaults")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 12
    knobs, counters = _knobs(), known()
    for row in rows:
        threat, _default, own, counted, tests = row
        assert set(re.findall(r"`(\w+)`", own)) <= knobs, threat
        assert set(re.findall(r"`(\w+)`", counted)) <= set(counters), threat
        assert _TEST.search(tests), f"{threat}: no test"


def test_fixed_versions_of_libraries_with_known_holes() -> None:
    locked = dict(re.findall(r'name = "([\w-]+)"\nversion = "([\d.]+)"', (ROOT / "Cargo.lock").read_text()))
    least = {"h2": (0, 4, 16), "rustls": (0, 23, 45)}
    for name, version in least.items():
        assert tuple(map(int, locked[name].split("."))) >= version, name
    requirements = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==\S+ \\\n((?:    --hash=\S+(?: \\)?\n)+)", requirements, re.M)
    assert len(pins) == len(re.findall(r"^[\w.-]+==", requirements, re.M)) > 20, "every package is pinned with its hashes"
