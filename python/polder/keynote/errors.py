"""How KeyNote says no."""

from __future__ import annotations

from enum import StrEnum


class Why(StrEnum):
    """Why an assertion or a query was refused: stable words for programs."""

    SYNTAX = "syntax"
    LIMIT = "limit"
    KEY = "key"
    SIGNATURE = "signature"
    UNSIGNED = "unsigned"
    ALGORITHM = "algorithm"
    NO_CONDITIONS = "no-conditions"
    QUERY = "query"


class KeyNoteError(ValueError):
    """A refusal: its kind, and in words whose fault it is and how to mend it. Sending the same again never helps."""

    def __init__(self, kind: Why, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Fault(Exception):
    """A runtime error inside a test: that test is false (RFC 2704 §5.3.4)."""
