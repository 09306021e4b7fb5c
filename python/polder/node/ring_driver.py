"""Runs a ``Router``: its timers on the event loop, its messages as control calls (method ``ring``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec

from polder.engine import CallFailed
from polder.model import Member, Refused, Verdict, encode
from polder.model.overlay_messages import Caller
from polder.model.ring_messages import RingAnswer, decode_answer, decode_request
from polder.ring.router import Changed, Joined, LookupDone, LookupFailed, Misbehaved, Reply, RingImage, Router, Send
from polder.shell.clock import monotonic
from polder.shell.handover import recall
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.ring")

RawCall = Callable[[Member, str, bytes, float], Awaitable[bytes]]


class RingDriver:
    """Drives one router; ``on_change`` is told when routes are to be made anew."""

    def __init__(self, router: Router, call: RawCall, tasks: Tasks, timeout: float, on_change: Callable[[], None]) -> None:
        self.router = router
        self.joined = asyncio.Event()
        self._call = call
        self._tasks = tasks
        self._timeout = timeout
        self._on_change = on_change
        self._timer: asyncio.TimerHandle | None = None
        self._replies: dict[int, asyncio.Future[bytes]] = {}
        self._next_reply = 0
        self._stopped = False
        self._lookups: dict[int, asyncio.Future[tuple[Member, ...]]] = {}

    def found(self) -> None:
        """Begin a ring of one."""
        self.router.found(monotonic())
        self._pump()

    def join(self, contacts: Iterable[Member]) -> None:
        """Join through any of ``contacts``; ``joined`` is set when it is done."""
        self.router.join(contacts, monotonic())
        self._pump()

    def memory(self) -> dict[str, bytes]:
        """What the router knows and a restart would lose."""
        image = self.router.image()
        return {} if image is None else {"ring": msgspec.msgpack.encode(image)}

    def resume(self, memory: Mapping[str, bytes]) -> bool:
        """Go on as the member that the process before this one was; whether it was one."""
        image = recall(memory, "ring", RingImage)
        if image is None:
            return False
        self.router.resume(image, monotonic())
        self._pump()
        return True

    def stop(self) -> None:
        """Say and do nothing more; questions that come are still answered."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopped = True

    async def leave(self) -> None:
        """Say goodbye; the messages get one timeout to go out."""
        self.router.leave(monotonic())
        sends = self._pump()
        if sends:
            await asyncio.wait(sends, timeout=self._timeout)
        if self._timer is not None:
            self._timer.cancel()

    async def lookup(self, key: int) -> tuple[Member, ...]:
        """The owner of ``key`` and its heirs. Raises ``Refused`` (retry) when nobody that could be reached knows."""
        number = self.router.lookup(key, monotonic())
        future: asyncio.Future[tuple[Member, ...]] = asyncio.get_running_loop().create_future()
        self._lookups[number] = future
        self._pump()
        return await future

    def handle(self, caller: Caller, _source: str, body: bytes) -> Awaitable[bytes]:
        """A ``ring`` call from a peer. Raises ``Refused`` or ``ValueError``."""
        request = decode_request(body)
        self._next_reply += 1
        number = self._next_reply
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._replies[number] = future
        try:
            self.router.handle(request, caller, number, monotonic())
        except Refused:
            del self._replies[number]
            raise
        self._pump()
        return future

    def _pump(self) -> list[asyncio.Task[None]]:
        sends = []
        while (out := self.router.poll_transmit()) is not None:
            if isinstance(out, Reply):
                self._reply(out)
            else:
                sends.append(self._tasks.once("ring message", self._send(out)))
        while (event := self.router.poll_event()) is not None:
            self._on_event(event)
        self._set_timer()
        return sends

    def _reply(self, reply: Reply) -> None:
        future = self._replies.pop(reply.reply_to, None)
        if future is not None and not future.done():
            future.set_result(encode(reply.message))

    async def _send(self, send: Send) -> None:
        answer: RingAnswer | None = None
        try:
            body = await self._call(send.to, "ring", encode(send.message), self._timeout)
            answer = decode_answer(body)
        except CallFailed as error:
            log.debug("no answer from a ring member", extra={"error": str(error), "status": error.status})
        except ValueError as error:
            log.warning("a ring member answered with nonsense", extra={"who": send.to.name, "error": str(error)})
        if answer is None:
            self.router.failed(send.request_id, monotonic())
        else:
            self.router.answered(send.request_id, answer, monotonic())
        self._pump()

    def _on_event(self, event: Joined | Changed | LookupDone | LookupFailed | Misbehaved) -> None:
        match event:
            case Joined():
                log.info("joined the ring")
                self.joined.set()
                self._on_change()
            case Changed():
                self._on_change()
            case LookupDone(lookup, _, members, _):
                if (future := self._lookups.pop(lookup, None)) is not None and not future.done():
                    future.set_result(members)
            case LookupFailed(lookup, _, why):
                if (future := self._lookups.pop(lookup, None)) is not None and not future.done():
                    future.set_exception(Refused(Verdict.UNKNOWN, f"the ring did not answer: {why}", retry=True))
            case Misbehaved(member, why):
                log.warning("a ring member misbehaved", extra={"who": member.name, "why": why})

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        due = self.router.poll_timeout()
        if due is not None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.router.handle_timeout(monotonic())
        self._pump()
