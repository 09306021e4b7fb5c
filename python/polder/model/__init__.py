"""Values that every room shares: frozen, without I/O. This room imports nothing of Polder."""

from polder.model.ids import RING_BITS, RING_SIZE, Kind, RingId, SpiffeId, between, between_right, distance, parse_name
from polder.model.records import (
    Appointment,
    Member,
    PathMode,
    RevocationList,
    Rule,
    Signed,
    SiteRecord,
    Tell,
    Verifier,
    decode,
    encode,
)
from polder.model.verdicts import Refused, Verdict

__all__ = [
    "RING_BITS",
    "RING_SIZE",
    "Appointment",
    "Kind",
    "Member",
    "PathMode",
    "Refused",
    "RevocationList",
    "RingId",
    "Rule",
    "Signed",
    "SiteRecord",
    "SpiffeId",
    "Tell",
    "Verdict",
    "Verifier",
    "between",
    "between_right",
    "decode",
    "distance",
    "encode",
    "parse_name",
]
