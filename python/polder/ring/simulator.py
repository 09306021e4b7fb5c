"""A ring of real machines in one process: event queue, virtual clock, seeded chance, slow and lossy network, births and deaths.

The machines are those that run in nodes. After every change of any node's state the five properties are checked; a violation
raises ``PropertyViolated`` with the flow of messages that led to it. Nodes fail only as the proof allows: nobody is left without
a live successor, no list in flight is left without a live entry, and the base (trap 46) stays.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

from polder.model import RING_SIZE, Kind, Member
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import Neighbours, RingAnswer, RingRequest, Successors
from polder.ring.chord import Chord
from polder.ring.config import ChordConfig
from polder.ring.properties import Watch, ideal, principals, violations
from polder.ring.router import LookupDone, LookupFailed, Misbehaved, Reply, Send
from polder.ring.table import standing

Latency = Callable[[int, int, Random], float]
"""One-way seconds from node number a to node number b."""


def uniform_latency(low: float = 0.005, high: float = 0.15) -> Latency:
    """Every message takes its own time: order is not kept."""
    return lambda _a, _b, rng: rng.uniform(low, high)


@dataclass(frozen=True)
class SimConfig:
    """A run. ``loss``: of each message; the transport repeats it after ``retransmit`` seconds, doubling, until ``deadline``."""

    seed: int
    chord: ChordConfig = field(default_factory=lambda: ChordConfig(found_after=math.inf))
    latency: Latency = field(default_factory=uniform_latency)
    loss: float = 0.0
    retransmit: float = 0.2
    deadline: float = 3.0
    check_fully: bool = True
    """Check the properties from scratch at each change too (O(N)); else ``Watch``'s certificate alone."""
    permit_violations: bool = False
    """For runs outside the failure assumption: count violations, and ask only that the ring heals."""
    flow: int = 150
    """Last messages that a failure prints."""


class PropertyViolated(AssertionError):
    """A property does not hold. The text has the flow."""


@dataclass(slots=True, eq=False)
class Node:
    """One incarnation of a node."""

    number: int
    member: Member
    machine: Chord
    born_at: float
    base: bool = False
    alive: bool = True
    wake: float | None = None
    held: dict[int, _Call] = field(default_factory=dict)
    listed: tuple[int, ...] | None = None


class _Call(NamedTuple):
    """One request on its way: who asked, its number there, when."""

    asker: Node
    request_id: int
    sent: float


class Simulator:
    """See the module. ``nodes``: ring id → current incarnation, dead or alive."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.rng = Random(config.seed)  # noqa: S311 - chance of an experiment
        self.now = 0.0
        self.nodes: dict[int, Node] = {}
        self.watch = Watch()
        self.violated: list[tuple[float, str]] = []
        self.counts: dict[str, int] = dict.fromkeys(
            (
                "messages",
                "lost",
                "failed",
                "joined",
                "killed",
                "changes",
                "lookups",
                "lookups_right",
                "lookup_hops",
                "lookups_failed",
                "misbehaved",
            ),
            0,
        )
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._tokens = 0
        self._flow: deque[tuple[float, str, str, str, str]] = deque(maxlen=config.flow)
        self._in_flight: dict[int, tuple[int, ...]] = {}
        self._all: list[Node] = []
        self._order_of_members: list[int] = []
        self._pinned: list[Node] = []

    # Births and deaths

    def base(self, count: int) -> list[Node]:
        """The pinned members with which the ring begins."""
        nodes = self._pinned = [self._make(base=True) for _ in range(count)]
        members = [node.member for node in nodes]
        for node in nodes:
            node.machine.born(members, self.now)
        for node in nodes:
            node.listed = _ids(node.machine.successors())
            insort(self._order_of_members, int(node.member.id))
        self._judge(self.watch.begin({node.member.id: node.listed or () for node in nodes}))
        for node in nodes:
            self._drain(node)
        return nodes

    def standing(self, count: int) -> None:
        """A large ring that stands already; its first ``r + 1`` members are the pinned base."""
        nodes = sorted((self._make() for _ in range(count)), key=lambda node: node.member.ring_id)
        self._pinned = nodes[: self.config.chord.successors + 1]
        for node in self._pinned:
            node.base = True
        tables = standing([node.member for node in nodes], self.config.chord.successors)
        for node, table in zip(nodes, tables, strict=True):
            node.machine.settled(table, self.now)
            node.listed = _ids(node.machine.successors())
            insort(self._order_of_members, int(node.member.id))
        self._judge(self.watch.begin({node.member.id: node.listed or () for node in nodes}))
        for node in nodes:
            self._drain(node)

    def found(self) -> Node:
        """A ring of one."""
        node = self._make()
        node.machine.found(self.now)
        self._drain(node)
        return node

    def join(self, again: Node | None = None) -> Node:
        """A new node joins, given two pinned members and two others; ``again``: a dead one comes back, knowing nothing."""
        pinned = [node for node in self._pinned if node.alive and node.base]
        chosen = self.rng.sample(pinned, min(2, len(pinned))) + [self.any_live() for _ in range(2)]
        contacts = {node.member.ring_id: node.member for node in chosen}.values()
        node = self._make(again)
        node.machine.join(contacts, self.now)
        self.counts["joined"] += 1
        self._drain(node)
        return node

    def may_fail(self, victim: Node) -> bool:
        """Whether the failure assumption allows the death of ``victim``."""
        ring_id = victim.member.id
        if victim.base or self.watch.orphaned_by(ring_id):
            return False
        in_flight = self._in_flight.values()
        if any(not any(entry != ring_id and entry in self.watch.lists for entry in listed) for listed in in_flight):
            return False
        if any(node.base for node in self._pinned):
            return True
        remaining = {node: listed for node, listed in self.watch.lists.items() if node != ring_id}
        return len(principals(remaining, in_flight)) > self.config.chord.successors

    def kill(self, victim: Node) -> None:
        """The node stops, without a word."""
        victim.alive = False
        self.counts["killed"] += 1
        self._note(victim, "dies", "", "")
        for call in victim.held.values():
            self._at(max(self.now, call.sent + self.config.deadline), lambda call=call: self._fail(call))  # type: ignore[misc]
        victim.held.clear()
        if victim.listed is not None:
            victim.listed = None
            del self._order_of_members[bisect_left(self._order_of_members, victim.member.id)]
            self._judge(self.watch.remove(victim.member.id))

    def any_live(self) -> Node:
        """A random one that runs."""
        for _ in range(20):
            node = self.rng.choice(self._all)
            if node.alive:
                return node
        return self.rng.choice(self.live())

    def live(self) -> list[Node]:
        """All that run, members or joining."""
        return [node for node in self.nodes.values() if node.alive]

    # Time

    def run(self, until: float) -> None:
        """Let time pass until ``until``."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, action = heappop(self._agenda)
            action()
        self.now = until

    def settle(self, limit: float) -> float:
        """Let time pass until the ring is ideal; seconds it took. Raises ``PropertyViolated`` after ``limit``."""
        began = self.now
        while not self.is_ideal():
            if self.now - began > limit:
                raise PropertyViolated(f"not ideal after {limit} s of quiet\n{self.flow()}")
            self.run(self.now + 0.5)
        return self.now - began

    def is_ideal(self) -> bool:
        """Whether all that live are members and know exactly their neighbours."""
        nodes = self.live()
        if not all(node.machine.joined for node in nodes):
            return False
        predecessors: dict[int, int | None] = {n.member.id: (p.id if (p := n.machine.predecessor) else None) for n in nodes}
        return ideal(self.watch.lists, predecessors, self.config.chord.successors)

    def lookup(self, node: Node, key: int) -> None:
        """Start a lookup; outcomes are counted."""
        node.machine.lookup(key, self.now)
        self._drain(node)

    def owner(self, key: int) -> int:
        """By definition: the first live member at or behind ``key``."""
        return self._order_of_members[bisect_left(self._order_of_members, key) % len(self._order_of_members)]

    def flow(self) -> str:
        """The last messages, one a line."""
        return "\n".join(f"{t:10.3f}  {a:>6} {verb:<7} {b:<6} {what}" for t, a, verb, b, what in self._flow)

    # The network

    def _make(self, again: Node | None = None, base: bool = False) -> Node:
        if again is None:
            number = len(self._all)
            ring_id = self.rng.randrange(RING_SIZE)
            member = Member.of(f"n{number}", ring_id, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:7443")
        else:
            number, member = again.number, again.member
        machine = Chord(member, self.config.chord, Random(self.rng.getrandbits(64)))  # noqa: S311
        node = Node(number, member, machine, self.now, base)
        self.nodes[member.id] = node
        if again is None:
            self._all.append(node)
        else:
            self._all[number] = node
        return node

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._agenda, (when, self._order, action))

    def _delay(self, a: Node, b: Node) -> float | None:
        """Seconds until a message arrives, repeated as a reliable transport does; ``None`` when it gives up."""
        self.counts["messages"] += 1
        waited, pause = 0.0, self.config.retransmit
        while self.rng.random() < self.config.loss:
            self.counts["lost"] += 1
            waited, pause = waited + pause, pause * 2
            if waited > self.config.deadline:
                return None
        return waited + self.config.latency(a.number, b.number, self.rng)

    def _drain(self, node: Node) -> None:
        """Put on the wire what ``node`` says, check what it has become, and set its alarm."""
        machine = node.machine
        while (output := machine.poll_transmit()) is not None:
            if isinstance(output, Send):
                self._send(node, output)
            else:
                self._answer(node, output)
        while (event := machine.poll_event()) is not None:
            self._count(event)
        self._observe(node)
        wake = machine.poll_timeout()
        if wake is not None and (node.wake is None or wake < node.wake):
            node.wake = wake
            self._at(wake, lambda: self._alarm(node, wake))

    def _alarm(self, node: Node, when: float) -> None:
        if not node.alive or node.wake != when:
            return
        node.wake = None
        node.machine.handle_timeout(self.now)
        self._drain(node)

    def _send(self, node: Node, output: Send) -> None:
        call = _Call(node, output.request_id, self.now)
        target = self.nodes[output.to.id]
        delay = self._delay(node, target)
        self._note(node, ">>", target.member.name, type(output.message).__name__)
        if delay is None or delay > self.config.deadline:
            self._at(self.now + self.config.deadline, lambda: self._fail(call))
        else:
            self._at(self.now + delay, lambda: self._deliver(call, output.to.id, output.message))

    def _deliver(self, call: _Call, target_id: int, request: RingRequest) -> None:
        target = self.nodes[target_id]
        if not target.alive:
            self._at(max(self.now, call.sent + self.config.deadline), lambda: self._fail(call))
            return
        self._tokens += 1
        target.held[self._tokens] = call
        sender = request.sender
        target.machine.handle(request, Caller(Kind.NODE, sender.name, sender.ring_id), self._tokens, self.now)
        self._drain(target)

    def _answer(self, node: Node, output: Reply) -> None:
        call = node.held.pop(output.reply_to)
        delay = self._delay(node, call.asker)
        self._note(node, "answers", call.asker.member.name, type(output.message).__name__)
        remaining = call.sent + self.config.deadline - self.now
        if delay is None or delay > remaining:
            self._at(max(self.now, call.sent + self.config.deadline), lambda: self._fail(call))
            return
        token = self._tokens = self._tokens + 1
        if isinstance(output.message, Successors | Neighbours):
            asker, members = call.asker.machine, output.message.members
            self._in_flight[token] = _ids(asker.table.chop((node.member, *members) if asker.joined else members))
        self._at(self.now + delay, lambda: self._hear(call, token, output.message))

    def _hear(self, call: _Call, token: int, answer: RingAnswer) -> None:
        self._in_flight.pop(token, None)
        if call.asker.alive:
            call.asker.machine.answered(call.request_id, answer, self.now)
            self._drain(call.asker)

    def _fail(self, call: _Call) -> None:
        if call.asker.alive:
            self.counts["failed"] += 1
            self._note(call.asker, "hears", "nobody", "")
            call.asker.machine.failed(call.request_id, self.now)
            self._drain(call.asker)

    # Watching

    def _observe(self, node: Node) -> None:
        if not node.machine.joined:
            return
        listed = _ids(node.machine.successors())
        if listed != node.listed:
            if node.listed is None:
                insort(self._order_of_members, int(node.member.id))
            node.listed = listed
            self.counts["changes"] += 1
            self._note(node, "knows", "", " ".join(m.name for m in node.machine.successors()))
            self._judge(self.watch.update(node.member.id, listed))

    def _judge(self, found: list[str]) -> None:
        if self.config.check_fully:
            found = violations(self.watch.lists)
        if not found:
            return
        self.violated += [(self.now, what) for what in found]
        if not self.config.permit_violations:
            raise PropertyViolated(f"seed {self.config.seed}, t={self.now:.3f}: {'; '.join(found)}\n{self.flow()}")

    def _count(self, event: object) -> None:
        if isinstance(event, LookupDone):
            self.counts["lookups"] += 1
            self.counts["lookup_hops"] += event.hops
            alive = next((m for m in event.members if self.nodes[m.id].alive), None)
            self.counts["lookups_right"] += alive is not None and alive.id == self.owner(event.key)
        elif isinstance(event, LookupFailed):
            self.counts["lookups_failed"] += 1
        elif isinstance(event, Misbehaved):
            self.counts["misbehaved"] += 1

    def _note(self, node: Node, verb: str, other: str, what: str) -> None:
        self._flow.append((self.now, node.member.name, verb, other, what))


def _ids(members: tuple[Member, ...]) -> tuple[int, ...]:
    return tuple(int.from_bytes(member.ring_id, "big") for member in members)


def churn(sim: Simulator, *, joins_per_s: float, deaths_per_s: float, until: float, least: int) -> Iterator[str]:
    """Random births, returns and deaths until ``until``; never fewer than ``least`` running nodes. Yields what happened."""
    rate = joins_per_s + deaths_per_s
    running = len(sim.live())
    dead: list[Node] = []
    while True:
        pause = sim.rng.expovariate(rate)
        if sim.now + pause > until:
            sim.run(until)
            return
        sim.run(sim.now + pause)
        if sim.rng.random() < joins_per_s / rate:
            again = dead.pop(sim.rng.randrange(len(dead))) if dead and sim.rng.random() < 0.3 else None
            sim.join(again)
            running += 1
            yield "join"
        else:
            victim = sim.any_live()
            if running > least and sim.may_fail(victim):
                sim.kill(victim)
                dead.append(victim)
                running -= 1
                yield "kill"
