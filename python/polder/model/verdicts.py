"""How a deciding room says no."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Why something was refused: stable words for logs, metrics and answers."""

    BAD_SIGNATURE = "bad-signature"
    FOREIGN = "foreign-identity"
    EXPIRED = "expired"
    NOT_YET = "not-yet-valid"
    REVOKED = "revoked"
    REPLAYED = "replayed"
    WRONG_HOLDER = "wrong-holder"
    WRONG_PLACE = "wrong-ring-place"
    USED = "already-used"
    EXCEEDED = "exceeded"
    UNKNOWN = "unknown"
    MALFORMED = "malformed"
    DENIED = "denied"
    BUSY = "busy"


@dataclass(unsafe_hash=True)
class Refused(Exception):
    """A refusal: what kind, whose fault it is and how to mend it, and whether a retry may help."""

    verdict: Verdict
    why: str
    retry: bool = False

    def __str__(self) -> str:
        return f"{self.why} ({self.verdict})"
