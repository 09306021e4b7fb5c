"""A network of RSVP nodes on a virtual clock: links with delay and loss, routes that change, routers that start anew, a ledger."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from polder.model.reservations import Ask, Verdict
from polder.rsvp.integrity import Guard, Key
from polder.rsvp.intserv import Tspec
from polder.rsvp.ip import Packet
from polder.rsvp.node import Node
from polder.rsvp.objects import Address
from polder.rsvp.state import LOCAL, Config, Ended, Event, Install, Interface, Question, Send, Traffic, Uninstall

TSPEC = Tspec(2_500_000.0, 30_000.0, 5_000_000.0, 64, 1500)


class Ledger:
    """A policy decision point of tests: takes a bundle's bytes as a check, charges it once per session, whatever is asked again."""

    def __init__(self) -> None:
        self.charged: dict[tuple[bytes, str], int] = {}
        self.asked = 0
        self.refuse: Callable[[Ask], Verdict | None] = lambda ask: None
        self.until = 0.0

    def decide(self, ask: Ask) -> Verdict:
        self.asked += 1
        refused = self.refuse(ask)
        if refused is not None:
            return refused
        if not ask.bundle:
            return Verdict(False, 14, "no credentials came", 0, "")
        name = (ask.bundle, ask.session)
        self.charged[name] = 1
        return Verdict(True, 0, "paid", self.until, ask.bundle.hex())


@dataclass
class Box:
    """A node with what it did."""

    name: str
    node: Node
    config: Config
    interfaces: dict[int, Interface]
    guards: dict[int, tuple[Key, ...]]
    routes: dict[Address, int] = field(default_factory=dict)
    own: set[Address] = field(default_factory=set)
    installed: dict[int, Traffic] = field(default_factory=dict)
    installs: int = 0
    events: list[Event] = field(default_factory=list)
    alive: bool = True


class Net:
    """Time passes in ``run``. ``loss`` is a share of all messages; ``decision`` is how long the ledger thinks."""

    def __init__(self, seed: int = 1, loss: float = 0.0, delay: float = 0.01, decision: float = 0.005) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.loss = loss
        self.delay = delay
        self.decision = decision
        self.install = 0.01
        self.ledger = Ledger()
        self.boxes: dict[str, Box] = {}
        self.links: dict[tuple[str, int], tuple[str, int]] = {}
        self.cut: set[tuple[str, int]] = set()
        self.sent = 0
        self.tap: Callable[[str, Send], bytes | None] = lambda name, send: send.data
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def add(self, name: str, own: str, *, config: Config | None = None) -> None:
        """A node without links yet."""
        config = config or Config(name=name)
        box = Box(name, None, config, {}, {}, own={IPv4Address(own)})  # type: ignore[arg-type]
        self.boxes[name] = box

    def link(self, a: str, b: str, capacity: float = 1e9, *, policy: bool = False, key: bytes = b"", mtu: int = 1500) -> None:
        """A link with a network of its own; ``capacity`` and ``policy`` hold from ``a`` to ``b``."""
        number = len(self.links) // 2 + 1
        ends = []
        for name, last in ((a, 1), (b, 2)):
            box = self.boxes[name]
            index = max(box.interfaces, default=0) + 1
            address = IPv4Address(f"10.0.{number}.{last}")
            mine = name == a
            box.interfaces[index] = Interface(
                index, address, capacity if mine else 1e9, 1.25e8, mtu, 0, policy and mine, f"{a}-{b}" if mine else ""
            )
            box.own.add(address)
            if key:
                box.guards[index] = (Key(7, key),)
            ends.append((name, index))
        self.links[ends[0]], self.links[ends[1]] = ends[1], ends[0]

    def start(self) -> None:
        """Shortest ways everywhere, and every node at its beginning."""
        self.reroute(tell=False)
        for name in self.boxes:
            self.restart(name)

    def restart(self, name: str) -> None:
        """A node loses all it knew, and its links forget its reservations."""
        box = self.boxes[name]
        box.installed.clear()
        box.alive = True
        guards = {
            index: Guard(keys, self.rng.randbytes(16), int(self.now * 1e6) + 5_000_000, self.now)
            for index, keys in box.guards.items()
        }
        box.node = Node(
            box.config, box.interfaces, lambda to, source: self._routes(box, to), random.Random(self.rng.random()), guards
        )

    def reroute(self, *, tell: bool = True) -> None:
        """Compute every node's routes over the links that are not cut."""
        for box in self.boxes.values():
            box.routes.clear()
        for goal, box in self.boxes.items():
            far, edge = {goal}, [goal]
            while edge:
                here = edge.pop(0)
                for (a, _), (b, back) in sorted(self.links.items()):
                    if a == here and b not in far and (b, back) not in self.cut:
                        far.add(b)
                        edge.append(b)
                        for address in box.own:
                            self.boxes[b].routes.setdefault(address, back)
        if tell:
            for box in self.boxes.values():
                box.node.rerouted(self.now)

    def _routes(self, box: Box, to: Address) -> tuple[int, ...]:
        if to in box.own:
            return (LOCAL,)
        return (box.routes[to],) if to in box.routes else ()

    def do(self, name: str, work: Callable[[Node], None]) -> None:
        """Let an application on a node do something."""
        work(self.boxes[name].node)
        self._collect(self.boxes[name])

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            deadlines = [(at, box) for box in self.boxes.values() if box.alive and (at := box.node.deadline()) is not None]
            first = min(deadlines, key=lambda each: each[0], default=None)
            event = self._queue[0][0] if self._queue else None
            times = [each for each in (first[0] if first else None, event) if each is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            if event is not None and event <= self.now:
                heapq.heappop(self._queue)[2]()
            elif first is not None:
                first[1].node.tick(self.now)
                self._collect(first[1])
        self.now = end

    def until(self, condition: Callable[[], bool], limit: float = 600.0) -> float:
        """Let time pass until something is so; how long that took. Fails after ``limit`` seconds."""
        began = self.now
        while not condition():
            assert self.now < began + limit, "did not come about in time"
            self.run(0.005)
        return self.now - began

    def _later(self, after: float, work: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + after, self._count, work))

    def _collect(self, box: Box) -> None:
        for action in box.node.take():
            match action:
                case Send():
                    self._carry(box, action)
                case Install():
                    box.installed[action.handle] = action.traffic
                    box.installs += 1
                    node, handle = box.node, action.handle
                    self._later(self.install, lambda box=box, node=node, handle=handle: self._in_force(box, node, handle))  # type: ignore[misc]
                case Uninstall():
                    del box.installed[action.handle]
                case Question():
                    self._later(self.decision, lambda box=box, node=box.node, q=action: self._decide(box, node, q))  # type: ignore[misc]
                case Ended():
                    pass
                case Event():
                    box.events.append(action)

    def _in_force(self, box: Box, node: Node, handle: int) -> None:
        if box.node is node:
            node.installed(handle, self.now)
            self._collect(box)

    def _decide(self, box: Box, node: Node, question: Question) -> None:
        if box.node is not node:
            return
        verdict = self.ledger.decide(question.ask)
        node.decided(question.ticket, verdict, verdict.until or None, self.now)
        self._collect(box)

    def _carry(self, box: Box, send: Send) -> None:
        self.sent += 1
        end = (box.name, send.interface)
        far = self.links[end]
        data = self.tap(box.name, send)
        if data is None or end in self.cut or self.rng.random() < self.loss:
            return
        packet = Packet(send.source, send.destination, send.ttl, send.alert, data)  # type: ignore[arg-type]
        self._later(self.delay * self.rng.uniform(0.9, 1.1), lambda: self._arrive(far, packet))

    def _arrive(self, end: tuple[str, int], packet: Packet) -> None:
        box = self.boxes[end[0]]
        if box.alive and (packet.alert or packet.destination in box.own):
            box.node.receive(packet, end[1], self.now)
            self._collect(box)

    def leftovers(self) -> dict[str, int]:
        """Nodes that remember something."""
        return {name: left for name, box in self.boxes.items() if (left := box.node.leftovers())}


def chain(
    routers: int, *, seed: int = 1, loss: float = 0.0, capacity: float = 3_125_000.0, policy: bool = True, key: bytes = b""
) -> Net:
    """sender ── r1 ── … ── rN ── receiver; every router's link towards the receiver has ``capacity`` and asks the ledger."""
    net = Net(seed, loss)
    net.add("sender", "198.18.0.1")
    for number in range(1, routers + 1):
        net.add(f"r{number}", f"198.18.1.{number}")
    net.add("receiver", "198.18.9.9")
    names = ["sender", *(f"r{number}" for number in range(1, routers + 1)), "receiver"]
    for a, b in itertools.pairwise(names):
        net.link(a, b, capacity if a != "sender" else 1e9, policy=policy and a != "sender", key=key)
    net.start()
    return net
