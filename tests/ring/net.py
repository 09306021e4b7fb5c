"""A network for any ``Router``: calls with delay and loss, silence of the dead, a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from polder.model import Kind, Member
from polder.model import encode as encode_message
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import decode_answer, decode_request
from polder.ring import LookupDone, Reply, Router, Send

DEADLINE = 1.0


class Net:
    """Routers by name. Messages cross as bytes."""

    def __init__(self, make: Callable[[Member, Random], Router], seed: int, loss: float = 0.0) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.loss = loss
        self.routers: dict[str, Router] = {}
        self.events: dict[str, list[Any]] = {}
        self._make = make
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._calls: dict[int, tuple[str, int]] = {}
        self._dead: set[str] = set()
        self._places: dict[str, Member] = {}

    def add(self, name: str) -> Router:
        """A node, again at its place if it was there before; not yet a member."""
        place = self._places.setdefault(name, Member.of(name, self.rng.getrandbits(128), f"{name}:1"))
        router = self._make(place, Random(self.rng.random()))
        self.routers[name] = router
        self.events[name] = []
        self._dead.discard(name)
        return router

    def grow(self, count: int) -> None:
        """One founder; the others join through random members."""
        for index in range(count):
            router = self.add(f"n{index}")
            if index == 0:
                router.found(self.now)
            else:
                known = [r.me for r in self.living() if r is not router]
                router.join(self.rng.sample(known, min(3, len(known))), self.now)
            self.pump(f"n{index}")
            self.run(0.5)

    def kill(self, name: str) -> None:
        """Without a word."""
        self._dead.add(name)

    def living(self) -> list[Router]:
        """All that run."""
        return [router for name, router in self.routers.items() if name not in self._dead]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while True:
            due = min(((t, r.me.name) for r in self.living() if (t := r.poll_timeout()) is not None), default=(until + 1, ""))
            if self._agenda and self._agenda[0][0] <= min(due[0], until):
                self.now, _, action = heappop(self._agenda)
                action()
            elif due[0] <= until:
                self.now = max(self.now, due[0])
                self.routers[due[1]].handle_timeout(self.now)
                self.pump(due[1])
            else:
                self.now = until
                return

    def settle(self, ready: Callable[[], bool], limit: float = 120.0) -> None:
        """Let time pass until ``ready``."""
        end = self.now + limit
        while not ready():
            assert self.now < end, f"not settled within {limit} s"
            self.run(0.5)

    def lookup(self, name: str, key: int) -> LookupDone:
        """Ask a node, wait for its answer."""
        number = self.routers[name].lookup(key, self.now)
        self.pump(name)
        found: list[LookupDone] = []

        def answered() -> bool:
            found[:] = [e for e in self.events[name] if isinstance(e, LookupDone) and e.lookup == number]
            return bool(found)

        self.settle(answered, 30.0)
        return found[0]

    def owner(self, key: int) -> Member:
        """By definition: the first living member at or behind the key."""
        places = sorted((r.me for r in self.living()), key=lambda m: m.id)
        return next((m for m in places if m.id >= key), places[0])

    def pump(self, name: str) -> None:
        """Put on the wire what ``name`` says."""
        router = self.routers[name]
        while (output := router.poll_transmit()) is not None:
            if isinstance(output, Send):
                self._send(name, output)
            else:
                self._reply(name, output)
        while (event := router.poll_event()) is not None:
            self.events[name].append(event)

    def _send(self, name: str, output: Send) -> None:
        body, to, request = encode_message(output.message), output.to.name, output.request_id
        if self.rng.random() < self.loss:
            self._at(DEADLINE, lambda: self._fail(name, request))
            return

        def arrive() -> None:
            if to in self._dead or to not in self.routers:
                self._at(DEADLINE, lambda: self._fail(name, request))
                return
            self._order += 1
            self._calls[self._order] = (name, request)
            message = decode_request(body)
            caller = Caller(Kind.NODE, name, self.routers[name].me.ring_id)
            self.routers[to].handle(message, caller, self._order, self.now)
            self.pump(to)

        self._at(self.rng.uniform(0.01, 0.1), arrive)

    def _reply(self, name: str, output: Reply) -> None:
        asker, request = self._calls.pop(output.reply_to)
        body = encode_message(output.message)
        if self.rng.random() < self.loss:
            self._at(DEADLINE, lambda: self._fail(asker, request))
            return

        def arrive() -> None:
            if asker not in self._dead:
                self.routers[asker].answered(request, decode_answer(body), self.now)
                self.pump(asker)

        self._at(self.rng.uniform(0.01, 0.1), arrive)

    def _fail(self, name: str, request: int) -> None:
        if name not in self._dead:
            self.routers[name].failed(request, self.now)
            self.pump(name)

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        self._order += 1
        heappush(self._agenda, (self.now + delay, self._order, action))
