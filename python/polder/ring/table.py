"""One node's view of the ring and the routes that follow from it: data and pure look-ups.

Successors are truth, fingers are hints (trap 51): only the node right before a key says who owns it, namely its first successor.
From farther away any known node that precedes the key is progress, be it a finger or an inner place of the successor list.

    me ── s1 ── s2 ── s3 ── s4 ┄┄┄ finger ┄┄┄ finger ┄┄ key ┄┄ predecessor ── me
    └ s1's ┘    └─────────── closest preceding ───────────┘      └─ keys I own ─┘
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from polder.model import RING_BITS, RING_SIZE, Member
from polder.ring.router import Hops

ALTERNATIVES = 3
"""Next hops offered beside the best one: as many as a data plane tries before it gives up."""


class Table:
    """Predecessor, successor list (at most ``r``), fingers of one node. ``changes`` counts changes."""

    __slots__ = ("_fingers", "_ranked", "_successors", "changes", "me", "my_id", "predecessor", "r")

    def __init__(self, me: Member, r: int) -> None:
        self.me = me
        self.my_id = int(me.id)
        self.r = r
        self.predecessor: Member | None = None
        self._successors: tuple[Member, ...] = ()
        self._fingers: dict[int, Member] = {}
        self._ranked: tuple[list[int], list[Member]] | None = None
        self.changes = 0

    @property
    def successors(self) -> tuple[Member, ...]:
        """Nearest first; never this node itself (trap 48)."""
        return self._successors

    @property
    def fingers(self) -> dict[int, Member]:
        """Exponent k → a node at or behind me + 2^k. Read only."""
        return self._fingers

    def away(self, member: Member) -> int:
        """Steps clockwise from here to ``member``."""
        return (int.from_bytes(member.ring_id, "big") - self.my_id) % RING_SIZE

    def set_successors(self, members: Iterable[Member]) -> bool:
        """Take a list, chopped; whether that changed anything."""
        chopped = self.chop(members)
        if chopped == self._successors:
            return False
        self._successors = chopped
        self._touch()
        return True

    def set_predecessor(self, member: Member | None) -> bool:
        """Take a predecessor; whether that changed anything."""
        if member == self.predecessor:
            return False
        self.predecessor = member
        self._touch()
        return True

    def set_finger(self, exponent: int, member: Member | None) -> bool:
        """Take or clear (``None``) a finger; whether that changed anything."""
        if self._fingers.get(exponent) == member or (member is not None and member.ring_id == self.me.ring_id):
            return False
        if member is None:
            del self._fingers[exponent]
        else:
            self._fingers[exponent] = member
        self._touch()
        return True

    def drop_finger(self, member: Member) -> bool:
        """Forget every finger to ``member``; whether there was one."""
        gone = [k for k, finger in self._fingers.items() if finger.ring_id == member.ring_id]
        for k in gone:
            self.set_finger(k, None)
        return bool(gone)

    def refresh(self, member: Member) -> None:
        """``member`` spoke itself: correct its address and name wherever it is known."""
        if self.predecessor is not None and self.predecessor.ring_id == member.ring_id:
            self.set_predecessor(member)
        if any(s.ring_id == member.ring_id and s != member for s in self._successors):
            self.set_successors(tuple(member if s.ring_id == member.ring_id else s for s in self._successors))
        for k, finger in tuple(self._fingers.items()):
            if finger.ring_id == member.ring_id:
                self.set_finger(k, member)

    def chop(self, members: Iterable[Member]) -> tuple[Member, ...]:
        """The first ``r`` of ``members`` that follow each other clockwise from here, this node left out.

        A list that passes this node has seen the whole ring: what follows would be in it twice, or is confused, and is cut off.
        """
        kept: list[Member] = []
        reach = 0
        for member in members:
            away = self.away(member)
            if away in (0, reach):
                continue
            if away < reach or len(kept) == self.r:
                break
            kept.append(member)
            reach = away
        return tuple(kept)

    def owns(self, key: int) -> bool:
        """Whether this node owns ``key``: it lies in (predecessor, me], or there is nobody else."""
        if self.predecessor is None:
            return not self._successors or key == self.my_id
        behind = (key - int.from_bytes(self.predecessor.ring_id, "big")) % RING_SIZE
        return 0 < behind <= RING_SIZE - self.away(self.predecessor) or key == self.my_id

    def owners(self, key: int) -> tuple[Member, ...]:
        """The first successor and those behind it, if ``key`` lies before it and so is its; else nothing.

        Only the first successor is known to have nobody between; the list's inner places may lag behind births.
        """
        if self._successors and (key - self.my_id) % RING_SIZE <= self.away(self._successors[0]):
            return self._successors
        return ()

    def heirs(self, key: int) -> tuple[Member, ...]:
        """Successors at or behind ``key``: one of them owns it if nobody lives, or was born, before them."""
        away = (key - self.my_id) % RING_SIZE
        return tuple(member for member in self._successors if self.away(member) >= away)

    def preceding(self, key: int, limit: int) -> list[Member]:
        """Known nodes strictly between here and ``key``, nearest to the key first."""
        distances, members = self._rank()
        end = bisect_left(distances, (key - self.my_id) % RING_SIZE or RING_SIZE)
        return members[max(0, end - limit) : end][::-1]

    def next_hops(self, key: int) -> Hops:
        """Where a request for ``key`` goes from here."""
        if self.owns(key):
            return Hops(None, self._successors[:ALTERNATIVES])
        owners = self.owners(key)
        if owners:
            return Hops(owners[0], owners[1 : 1 + ALTERNATIVES])
        near = self.preceding(key, 1 + ALTERNATIVES)
        if not near:  # only while no successor is known: the predecessor is then the one way out
            return Hops(self.predecessor)
        # Should the best be dead, the heir may be the owner already; those farther back would only come to the dead one again.
        return Hops(near[0], tuple(dict.fromkeys((*self.heirs(key)[:1], *near[1:])))[:ALTERNATIVES])

    def known(self) -> tuple[Member, ...]:
        """Everybody in this table, nearest clockwise first."""
        members = list(self._rank()[1])
        if self.predecessor is not None and self.predecessor not in members:
            members.append(self.predecessor)
        return tuple(members)

    def _rank(self) -> tuple[list[int], list[Member]]:
        if self._ranked is None:
            # The predecessor is left out: it precedes every key that others own, but from behind; it is no progress by itself.
            unique = {self.away(member): member for member in self._fingers.values()}
            unique.update((self.away(member), member) for member in self._successors)
            distances = sorted(unique)
            self._ranked = (distances, [unique[d] for d in distances])
        return self._ranked

    def _touch(self) -> None:
        self._ranked = None
        self.changes += 1


def stand(members: Sequence[Member], ids: Sequence[int], index: int, r: int) -> Table:
    """The right table of one node of a whole ring, fingers included. ``members`` in ring order, ``ids`` their places."""
    size = len(ids)
    table = Table(members[index], r)
    table.set_successors(members[(index + step) % size] for step in range(1, min(r, size - 1) + 1))
    table.set_predecessor(members[(index - 1) % size] if size > 1 else None)
    reach = table.away(table.successors[-1]) if table.successors else RING_SIZE
    exponent = reach.bit_length()
    while exponent < RING_BITS:
        place = bisect_left(ids, (ids[index] + (1 << exponent)) % RING_SIZE) % size
        if place == index:
            break
        table.set_finger(exponent, members[place])
        exponent = max(exponent + 1, table.away(members[place]).bit_length())
    return table


def standing(members: Sequence[Member], r: int) -> Iterator[Table]:
    """The right tables of a whole ring, in ring order. ``members`` in ring order."""
    ids = [int(member.id) for member in members]
    return (stand(members, ids, index, r) for index in range(len(ids)))
