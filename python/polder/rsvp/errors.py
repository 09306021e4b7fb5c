"""What is wrong with a message or an object, in words, and as the error code that goes back to whoever sent it (RFC 2205 appendix B)."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Error codes of ERROR_SPEC (RFC 2205 appendix B)."""

    CONFIRMATION = 0
    ADMISSION = 1
    POLICY = 2
    NO_PATH = 3
    NO_SENDER = 4
    CONFLICTING_STYLE = 5
    UNKNOWN_STYLE = 6
    CONFLICTING_DESTINATION_PORTS = 7
    CONFLICTING_SENDER_PORTS = 8
    PREEMPTED = 12
    UNKNOWN_CLASS = 13
    UNKNOWN_CTYPE = 14
    API = 20
    TRAFFIC_CONTROL = 21
    TRAFFIC_CONTROL_SYSTEM = 22
    SYSTEM = 23


class Admission(IntEnum):
    """Sub-codes of ``Code.ADMISSION``."""

    DELAY = 1
    BANDWIDTH = 2
    MTU = 3


class Policy(IntEnum):
    """Values of ``Code.POLICY`` that Polder uses (RFC 2750 §4)."""

    REJECTED = 3
    EXCEEDED = 4
    EXPIRED = 6
    SYNTAX = 11
    INTEGRITY = 12
    MISSING = 14


class Traffic(IntEnum):
    """Sub-codes of ``Code.TRAFFIC_CONTROL``."""

    CONFLICT = 1
    UNSUPPORTED = 2
    BAD_FLOWSPEC = 3
    BAD_TSPEC = 4
    BAD_ADSPEC = 5


_WORDS: dict[tuple[int, int], str] = {
    (Code.CONFIRMATION, 0): "the reservation was made",
    (Code.ADMISSION, Admission.DELAY): "the delay that was asked for cannot be kept",
    (Code.ADMISSION, Admission.BANDWIDTH): "the link has not that much bandwidth left",
    (Code.ADMISSION, Admission.MTU): "packets of the flow are larger than the link carries",
    (Code.POLICY, Policy.REJECTED): "the credentials do not allow this reservation",
    (Code.POLICY, Policy.EXCEEDED): "the credit or the check does not cover this, or was used already",
    (Code.POLICY, Policy.EXPIRED): "a credential has expired",
    (Code.POLICY, Policy.SYNTAX): "the credentials cannot be read",
    (Code.POLICY, Policy.INTEGRITY): "the policy data does not belong to this session, or was changed",
    (Code.POLICY, Policy.MISSING): "credentials are missing, or known here by hash no longer: send them whole",
    (Code.NO_PATH, 0): "no sender has announced this session here",
    (Code.NO_SENDER, 0): "the sender that was asked for has not announced itself here",
    (Code.CONFLICTING_STYLE, 0): "others reserve for this session in another style",
    (Code.UNKNOWN_STYLE, 0): "the reservation style is unknown",
    (Code.CONFLICTING_DESTINATION_PORTS, 0): "sessions to this address use port 0 and other ports",
    (Code.CONFLICTING_SENDER_PORTS, 0): "senders at this address use port 0 and other ports",
    (Code.TRAFFIC_CONTROL, Traffic.CONFLICT): "the services asked for cannot be merged",
    (Code.TRAFFIC_CONTROL, Traffic.UNSUPPORTED): "the service asked for is not offered",
    (Code.TRAFFIC_CONTROL, Traffic.BAD_FLOWSPEC): "the flowspec makes no sense",
    (Code.TRAFFIC_CONTROL, Traffic.BAD_TSPEC): "the sender's traffic specification makes no sense",
    (Code.TRAFFIC_CONTROL_SYSTEM, 0): "a router could not order its queue for it: its log says why, and a retry may help",
}


def explain(code: int, value: int) -> str:
    """An error in words: what is wrong, without a number where a word exists."""
    if (code, value) in _WORDS:
        return _WORDS[code, value]
    if code in {Code.UNKNOWN_CLASS, Code.UNKNOWN_CTYPE}:
        return f"a router does not know objects of class {value >> 8}, type {value & 255}"
    name = Code(code).name.lower().replace("_", " ") if code in Code.__members__.values() else f"error {code}"
    return f"{name}, value {value}"


class RsvpError(ValueError):
    """Something cannot be taken as RSVP. ``code`` and ``value`` are what an ERROR_SPEC would say; ``None``: nothing is reported,
    because the message is malformed and its sender cannot be trusted to be who it says (RFC 2205 §3.10 reports unknown objects only).
    A retry with the same bytes does not help.
    """

    def __init__(self, why: str, code: int | None = None, value: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.code = code
        self.value = value
