"""The policy decision point: one process that judges reservations for several routers (RFC 2753 §2)."""

from polder.model.reservations import Ask, Verdict
from polder.pdp.values import Decider

__all__ = ["Ask", "Decider", "Verdict"]
