"""Logs: JSON lines on stderr (RFC 3339 UTC), or plain lines on a terminal. Never a token, a key or a servlet's name."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from polder.shell.sieve import Sieve
from polder.shell.tail import Tail

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonLines(logging.Formatter):
    """One JSON object per record: ``time``, ``level``, ``room``, ``text`` and the record's extras."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": stamp.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "room": record.name.removeprefix("polder."),
            "text": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """``12:00:00 warning node: text key=value`` for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        text = f"{stamp} {record.levelname.lower()} {record.name.removeprefix('polder.')}: {record.getMessage()}"
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return f"{text} {extras}".rstrip() + trace


TAIL = Tail(JsonLines())
"""The last lines of this process."""


_OUT = logging.StreamHandler(sys.stderr)
SIEVE = Sieve((_OUT, TAIL), 20)
"""What every record goes through."""


def setup(level: str = "info") -> None:
    """Send Polder's records to stderr; call once per process."""
    _OUT.setStream(sys.stderr)
    _OUT.setFormatter(PlainLines() if sys.stderr.isatty() else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [SIEVE]
    root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Write records of ``level`` and above from now on."""
    logging.getLogger("polder").setLevel(level.upper())
