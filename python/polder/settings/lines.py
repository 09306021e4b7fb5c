"""Where in a TOML file a key is set: for messages that lead to the line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_SYNTAX = re.compile(r"\(at line (\d+), column \d+\)")


def line_of(file: Path, keys: Sequence[str]) -> int | None:
    """The line, from 1, where ``keys`` or the nearest table or value around it is set; ``None``: not in this file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):  # no such file, no text, or no name of a file at all
        return None
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if head := _TABLE.match(line):
            table = _parts(head[1])
            here = table
        elif key := _KEY.match(line):
            here = (*table, *_parts(key[1]))
        else:
            continue
        if here == tuple(keys[: len(here)]) and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def line_of_syntax(error: Exception) -> int | None:
    """The line that ``tomllib`` complains of."""
    found = _SYNTAX.search(str(error))
    return int(found[1]) if found else None


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))
