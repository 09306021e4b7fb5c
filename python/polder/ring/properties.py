"""The five safety properties of a Chord ring (Zave, arXiv 1610.01140), checked from outside over the state of all live members.

With *best successor* = the first live entry of a node's successor list, and the *ring* = the nodes that reach themselves by best
successors:

* AtLeastOneRing: there is a ring node.
* AtMostOneRing: every ring node reaches every other.
* OrderedRing: going round the ring once passes zero once.
* ConnectedAppendages: every other node reaches the ring.
* OrderedSuccessorLists: a node and its list, read in order, never pass the node itself.

``violations`` computes them as they stand, in O(N). ``Watch`` follows a large ring change by change: while some node *w* is
skipped by no best-successor edge and every node has such an edge, each walk goes clockwise and must land on *w*, so there is one
ring, *w* is on it, everybody reaches it, and from *w* back to *w* is one turn: four properties from one witness, in O(witnesses)
per change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from polder.model import RING_SIZE, between

Lists = Mapping[int, Sequence[int]]
"""Live members: ring id → ring ids of the successor list."""


def best_successor(node: int, lists: Lists) -> int | None:
    """The first live entry; a node without any entry, or the last one alive, is its own; ``None``: it has lost everybody."""
    listed = lists[node]
    if len(lists) == 1:
        return node
    return next((s for s in listed if s in lists), None) if listed else node


def ordered_list(node: int, listed: Sequence[int]) -> bool:
    """Whether ``node`` followed by ``listed`` goes clockwise without passing ``node``."""
    away = [(entry - node) % RING_SIZE for entry in listed]
    return all(a < b for a, b in pairwise([0, *away]))


def violations(lists: Lists) -> list[str]:
    """Names of the properties that do not hold, with the node that shows it; empty: all is well."""
    found = [f"OrderedSuccessorLists at {node:032x}" for node, listed in lists.items() if not ordered_list(node, listed)]
    best = {node: best_successor(node, lists) for node in lists}
    rings, lost = _rings(best)
    if lists and not rings:
        found.append("AtLeastOneRing: no node reaches itself")
    if len(rings) > 1:
        found.append(f"AtMostOneRing: {len(rings)} rings, of {sorted(len(r) for r in rings)} nodes")
    found += [f"OrderedRing: a ring of {len(ring)} nodes turns {_turns(ring)} times" for ring in rings if _turns(ring) != 1]
    found += [f"ConnectedAppendages: {node:032x} reaches no ring" for node in lost]
    return found


def principals(lists: Lists, in_flight: Iterable[Sequence[int]] = ()) -> set[int]:
    """Live members that no live member's extended list (itself and its entries), and no list in flight, skips over."""
    chains = [(node, *listed) for node, listed in lists.items()] + [tuple(listed) for listed in in_flight]
    remaining = set(lists)
    for chain in chains:
        for low, high in pairwise(chain):
            remaining = {node for node in remaining if not between(node, low, high)}
            if not remaining:
                return remaining
    return remaining


def ideal(lists: Lists, predecessors: Mapping[int, int | None], r: int) -> bool:
    """Whether every list holds exactly the next ``r`` live members and every predecessor is the right one."""
    order = sorted(lists)
    size = len(order)
    for index, node in enumerate(order):
        expected = [order[(index + step) % size] for step in range(1, min(r, size - 1) + 1)]
        if list(lists[node]) != expected or (size > 1 and predecessors[node] != order[index - 1]):
            return False
    return True


def _rings(best: Mapping[int, int | None]) -> tuple[list[list[int]], list[int]]:
    """Cycles of the graph of best successors, and nodes from which a walk ends nowhere."""
    colour: dict[int, int] = {}
    rings: list[list[int]] = []
    lost: list[int] = []
    for start in best:
        path: list[int] = []
        node: int | None = start
        while node is not None and node not in colour:
            colour[node] = start
            path.append(node)
            node = best[node]
        if node is None:
            lost += path
        elif colour[node] == start and node in path:
            rings.append(path[path.index(node) :])
    return rings, lost


def _turns(ring: Sequence[int]) -> int:
    steps = (((b - a) % RING_SIZE) or RING_SIZE for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
    return sum(steps) // RING_SIZE


class Watch:
    """Follows all live members; ``violations`` after each change, cheap while a witness stands."""

    def __init__(self, witnesses: int = 4) -> None:
        self.lists: dict[int, tuple[int, ...]] = {}
        self.full_checks = 0
        self._best: dict[int, int | None] = {}
        self._listed_by: dict[int, set[int]] = {}
        self._lost: set[int] = set()
        self._skipped: dict[int, set[int]] = {}
        self._wanted = witnesses

    def begin(self, lists: Lists) -> list[str]:
        """All these are live members from the same moment on."""
        self.lists = {node: tuple(listed) for node, listed in lists.items()}
        for node, listed in self.lists.items():
            for entry in listed:
                self._listed_by.setdefault(entry, set()).add(node)
        for node in self.lists:
            self._set_best(node)
        return self._verdict()

    def update(self, node: int, listed: tuple[int, ...]) -> list[str]:
        """``node`` is a live member with this list now."""
        born = node not in self.lists
        for entry in self.lists.get(node, ()):
            self._listed_by[entry].discard(node)
        self.lists[node] = listed
        for entry in listed:
            self._listed_by.setdefault(entry, set()).add(node)
        self._set_best(node)
        if born:
            self._others_changed(node)
        found = [] if ordered_list(node, listed) else [f"OrderedSuccessorLists at {node:032x}"]
        return found + self._verdict()

    def remove(self, node: int) -> list[str]:
        """``node`` died, or left."""
        for entry in self.lists.pop(node):
            self._listed_by[entry].discard(node)
        del self._best[node]
        self._lost.discard(node)
        self._skipped.pop(node, None)
        for skipping in self._skipped.values():
            skipping.discard(node)
        self._others_changed(node)
        return self._verdict()

    def orphaned_by(self, victim: int) -> bool:
        """Whether the death of ``victim`` would leave a member without a live successor (a failure that the proof excludes)."""
        return any(
            not any(entry != victim and entry in self.lists for entry in self.lists[node])
            for node in self._listed_by.get(victim, ())
        )

    def _others_changed(self, node: int) -> None:
        """``node`` came or went: for those that list it, and, where one is left alone or no longer, for all."""
        others = tuple(self.lists) if len(self.lists) <= 2 else self._listed_by.get(node, ())
        for other in others:
            self._set_best(other)

    def _set_best(self, node: int) -> None:
        best = best_successor(node, self.lists)
        self._best[node] = best
        (self._lost.add if best is None else self._lost.discard)(node)
        for witness, skipping in self._skipped.items():
            if best is not None and between(witness, node, best):
                skipping.add(node)
            else:
                skipping.discard(node)

    def _verdict(self) -> list[str]:
        if not self._lost and any(not skipping for skipping in self._skipped.values()):
            return []
        self.full_checks += 1
        self._choose_witnesses()
        return violations(self.lists)

    def _choose_witnesses(self) -> None:
        """Nodes of the ring that no edge skips, spread over it; at most as many as wanted."""
        self._skipped = {}
        order = sorted(self.lists)
        for candidate in order[:: max(1, len(order) // (4 * self._wanted))]:
            if len(self._skipped) == self._wanted:
                return
            if not any(best is not None and between(candidate, node, best) for node, best in self._best.items()):
                self._skipped[candidate] = set()
