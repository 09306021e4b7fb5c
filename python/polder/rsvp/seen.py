"""Numbers of messages that neighbours sent, so that a summary finds the state it refreshes, and an old message is known as old."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from polder.rsvp.objects import Address, MessageId

_HALF = 1 << 31


class Seen:
    """State by the message that set it last: neighbour, epoch and number (RFC 2961 §4.4, §5.2)."""

    def __init__(self) -> None:
        self._latest: dict[Hashable, tuple[Address, int, int]] = {}
        self._keys: dict[tuple[Address, int, int], set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._latest)

    def note(self, neighbour: Address, number: MessageId, keys: Iterable[Hashable]) -> None:
        """That message set this state."""
        name = (neighbour, number.epoch, number.number)
        for key in keys:
            self.drop(key)
            self._latest[key] = name
            self._keys.setdefault(name, set()).add(key)

    def stale(self, neighbour: Address, number: MessageId, key: Hashable) -> bool:
        """Whether a later message of the same neighbour's life set that state already (RFC 2961 §4.5)."""
        latest = self._latest.get(key)
        if latest is None or latest[:2] != (neighbour, number.epoch):
            return False
        return 0 < (latest[2] - number.number) % (2 * _HALF) < _HALF

    def find(self, neighbour: Address, epoch: int, number: int) -> set[Hashable]:
        """State that this number set; none when it is not known."""
        return self._keys.get((neighbour, epoch, number), set())

    def drop(self, key: Hashable) -> None:
        """That state is gone."""
        name = self._latest.pop(key, None)
        if name is not None:
            keys = self._keys[name]
            keys.discard(key)
            if not keys:
                del self._keys[name]
