"""``Lookup``: who owns a key? An iterative walk that asks ever nearer nodes; changes no state of the ring."""

from __future__ import annotations

from collections.abc import Iterable

from polder.model import RING_SIZE, Member
from polder.model.ring_messages import Found

MAX_STEPS = 200
"""Nodes asked before a lookup gives up: far above log2 of any ring, so that only a broken or hostile ring meets it."""


class Lookup:
    """One walk towards ``key``. ``ask`` whom it names, report by ``answered`` or ``failed``, until ``members`` or ``stuck``."""

    __slots__ = ("_candidates", "_dead", "_heirs", "_nearest", "_tried", "hops", "key", "members")

    def __init__(self, key: int, start: Iterable[Member], heirs: tuple[Member, ...] = ()) -> None:
        self.key = key
        self.hops = 0
        self.members: tuple[Member, ...] = ()
        self._tried: set[bytes] = set()
        self._dead: set[bytes] = set()
        self._nearest = RING_SIZE
        self._heirs = heirs
        self._candidates: dict[bytes, Member] = {}
        self._offer(start)

    @property
    def stuck(self) -> bool:
        """Whether nobody is left to ask."""
        return not self.members and (not self._candidates or self.hops >= MAX_STEPS)

    def widen(self, others: Iterable[Member]) -> None:
        """The best are exhausted: any other member may know the way."""
        self._offer(others)

    def ask(self) -> Member:
        """The nearest candidate behind the key; it counts as asked."""
        best = min(self._candidates.values(), key=self._left)
        del self._candidates[best.ring_id]
        self._tried.add(best.ring_id)
        self.hops += 1
        return best

    def answered(self, answer: Found) -> None:
        """Take an answer: final, or nodes nearer to the key than the one that answers (others are no progress)."""
        if answer.final:
            self.members = answer.members
            return
        left = self._left(answer.sender)
        if left < self._nearest:
            self._nearest, self._heirs = left, answer.heirs
        self._offer(member for member in answer.members if self._left(member) < left)
        self._inherit()

    def failed(self, member: Member) -> None:
        """It did not answer, or is no member."""
        self._dead.add(member.ring_id)
        self._inherit()

    def _inherit(self) -> None:
        """All who are nearer than the nearest that answered are dead: the owner is whom that one's list places behind the key."""
        if not any(self._left(member) < self._nearest for member in self._candidates.values()):
            self.members = tuple(member for member in self._heirs if member.ring_id not in self._dead)

    def _left(self, member: Member) -> int:
        """Steps that remain from ``member`` to the key; a node at the key itself is the farthest from preceding it."""
        return (self.key - int.from_bytes(member.ring_id, "big") - 1) % RING_SIZE

    def _offer(self, members: Iterable[Member]) -> None:
        for member in members:
            if member.ring_id not in self._tried:
                self._candidates[member.ring_id] = member
