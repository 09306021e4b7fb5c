"""An application's side: reserve bandwidth for what it receives, announce what it sends.

>>> async with await Connection.open(Path("/run/polder-rsvp/rsvp.sock")) as daemon:      # doctest: +SKIP
...     await daemon.say(Reserve(flow, "FF", (("198.18.0.1", 6000),), bundle=bundle))
...     told = await daemon.until("confirmed", timeout=10)

Closing the connection ends what was asked for.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from polder.model import Refused, Verdict
from polder.pdp.frames import FrameError, pack, read, unpack
from polder.rsvp.errors import Code
from polder.rsvpd.values import MOST_SHOWN, Answer, Asked, Show, Shown, Told

_BAD = frozenset({"refused", "resv-error"})
_MAY_PASS = frozenset({Code.ADMISSION, Code.TRAFFIC_CONTROL_SYSTEM})
_PASSING = frozenset({Code.NO_PATH, Code.NO_SENDER})


def lost(told: Told) -> bool:
    """Whether an event means that there is no reservation. A router that has just started knows no sender yet, says so, and is filled
    again with the next refresh: that passes; and what was in place before a refused change still is.
    """
    return told.kind in _BAD and not told.in_place and told.code not in _PASSING


class NotReserved(Refused):
    """The reservation was refused; ``told`` says by whom and why."""

    def __init__(self, told: Told) -> None:
        by = f" (by {told.by})" if told.by else ""
        # A full link may empty, a host helper may come back; credentials do not mend themselves.
        super().__init__(Verdict.DENIED, f"not reserved: {told.reason}{by}", retry=told.code in _MAY_PASS)
        self.told = told


class Connection:
    """One application at the daemon's socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> Connection:
        """Connect; raises ``Refused`` when no daemon listens."""
        try:
            return cls(*await asyncio.open_unix_connection(path))
        except OSError as error:
            why = f"no reservation daemon at {path} ({error.strerror}): start `polder rsvpd`"
            raise Refused(Verdict.UNKNOWN, why, retry=True) from error

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End what was asked for."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return

    async def say(self, said: Asked) -> None:
        """Ask for something; ``hear`` what comes of it."""
        self._writer.write(pack(said))
        await self._writer.drain()

    async def hear(self) -> Shown | Told:
        """The next answer; raises ``Refused`` when the daemon has ended."""
        try:
            data = await read(self._reader, MOST_SHOWN)
        except (OSError, FrameError) as error:
            raise Refused(Verdict.UNKNOWN, f"the reservation daemon does not answer: {error}", retry=True) from error
        if data is None:
            raise Refused(Verdict.UNKNOWN, "the reservation daemon has ended, and the reservation with it", retry=True)
        answer: Shown | Told = unpack(data, Answer)
        return answer

    async def until(self, kind: str, timeout: float) -> Told:
        """The first event of a kind. Raises ``NotReserved`` when the request fails, ``Refused`` when time is over."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    told = await self.hear()
                    if isinstance(told, Told):
                        if told.kind == kind:
                            return told
                        if lost(told) or (told.kind in _BAD and told.in_place):
                            raise NotReserved(told)
        except TimeoutError:
            why = f"no answer within {timeout:g} s: the sender has not announced itself, or a router on the way does not answer"
            raise Refused(Verdict.BUSY, why, retry=True) from None

    async def show(self) -> dict[str, Any]:
        """All state of the daemon."""
        await self.say(Show())
        answer = await self.hear()
        if not isinstance(answer, Shown):
            raise FrameError("an event where state was asked for")
        return answer.facts
