"""``DrillBook``: what a node lets an operator rehearse on it, and what not.

A drill is announced to every node before anybody suffers. A node takes one announcement at a time, and none in which more than
half of the nodes it knows shall suffer; so two operators who act at once do not both find a majority. A node suffers only what was
announced to it, for ``most`` seconds at most, and rests afterwards for ten times as long: whoever steals an operator's key cannot
keep nodes down by drills.
"""

from __future__ import annotations

from polder.model import Kind, Refused, Verdict
from polder.model.admin_messages import Drill
from polder.model.overlay_messages import Caller

REST = 10.0
"""How many times as long as it suffered a node rests: it is up for 91 % of the time, whatever an operator asks."""
MARGIN = 30.0
"""Seconds between an announcement and its drill, and for clocks that differ."""
STEPS = ("announce", "silence", "cut", "end")


class DrillBook:
    """``allowed`` and ``most`` (seconds) are the node's settings. ``now`` in Unix seconds."""

    def __init__(self, me: str, *, allowed: bool, most: float, rest_until: float = 0.0) -> None:
        self._me = me
        self._allowed = allowed
        self._most = most
        self._announced: Drill | None = None
        self._until = 0.0
        self._rest_until = rest_until

    def willing(self, now: float) -> bool:
        """Whether a drill may begin here."""
        return self._allowed and now >= self._rest_until and (self._announced is None or now >= self._until)

    def take(self, order: Drill, caller: Caller, members: int, now: float) -> None:
        """Check one order, and remember it; ``members``: how many nodes are known, this one included. Raises ``Refused``."""
        if caller.kind is not Kind.ADMIN:
            raise Refused(Verdict.DENIED, f"{caller.kind} {caller.name}: only an operator's identity (admin) may drill")
        if order.step not in STEPS:
            raise Refused(Verdict.MALFORMED, f"a drill has the steps {', '.join(STEPS)}")
        if order.step == "end":
            if self._announced is not None and self._announced.id == order.id:
                self._announced = None
            return
        if not self._allowed:
            raise Refused(Verdict.DENIED, f"node {self._me} takes part in no drill: `drills = true` in node.toml allows it")
        if not 0 < order.seconds <= self._most:
            raise Refused(
                Verdict.MALFORMED, f"a drill on node {self._me} lasts {self._most:g} s at most (drill_max in node.toml)"
            )
        running = self._announced if self._announced is not None and now < self._until else None
        if order.step == "announce":
            self._announce(order, running, members, now)
        else:
            self._suffer(order, running, now)

    def _announce(self, order: Drill, running: Drill | None, members: int, now: float) -> None:
        if running is not None and running.id != order.id:
            raise Refused(Verdict.BUSY, f"another drill is under way for {self._until - now:.0f} s more", retry=True)
        if 2 * len(set(order.nodes)) > members:
            raise Refused(Verdict.DENIED, f"{len(set(order.nodes))} of {members} nodes are more than half")
        if self._me in order.nodes and now < self._rest_until:
            raise Refused(Verdict.BUSY, f"node {self._me} rests from a drill for {self._rest_until - now:.0f} s more", retry=True)
        self._announced, self._until = order, now + order.seconds + MARGIN

    def _suffer(self, order: Drill, running: Drill | None, now: float) -> None:
        if running is None or running.id != order.id or self._me not in running.nodes or order.seconds > running.seconds:
            raise Refused(Verdict.DENIED, f"that drill was not announced to node {self._me}")
        if now < self._rest_until:
            raise Refused(Verdict.BUSY, f"node {self._me} rests from a drill for {self._rest_until - now:.0f} s more", retry=True)
        self._rest_until = now + order.seconds * (1 + REST)
