"""The service: several routers at once, over a Unix socket or TLS; what arrived together is judged together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from cryptography import x509

from polder.model.reservations import Ask, Verdict
from polder.pdp.frames import Count, Counted, FrameError, Judge, Judged, Over, pack, read, unpack
from polder.pdp.values import Decider
from polder.rsvp.errors import Policy
from polder.settings.base import ConfigError
from polder.shell.tasks import Tasks

log = logging.getLogger("polder.pdp")


_WORDS = {code.value: code.name.lower() for code in Policy}
_UNREAD = 1 << 20
"""Bytes of answers that wait for a router: one that does not read is hung up on."""


@dataclass
class Counts:
    """What was judged. ``reasons``: refusals by the word for their code; ``turned_away``: connections beyond the limit; ``unread``: routers
    that asked and did not read.
    """

    accepted: int = 0
    refused: int = 0
    ended: int = 0
    batches: int = 0
    failed: int = 0
    turned_away: int = 0
    unread: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, int]:
        """As one table."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "reasons"}
        return plain | {f"refused_{word}": count for word, count in sorted(self.reasons.items())}


class Pdp:
    """One policy decision point. ``start`` listens, ``close`` ends. A router behind TLS is who its certificate says it is. ``batch``,
    ``routers`` and ``pending`` are its limits (``PdpSettings``); new connections go by what they are then.
    """

    def __init__(
        self, decider: Decider, wall: Callable[[], float], *, batch: int = 256, routers: int = 256, pending: int = 4096
    ) -> None:
        self.counts = Counts()
        self.decider = decider
        """Who judges; another one may take its place between two batches."""
        self.batch = batch
        self.routers = routers
        self.pending = pending
        self._wall = wall
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._queue: asyncio.Queue[tuple[Judge | Over, asyncio.StreamWriter, asyncio.Semaphore]] = asyncio.Queue()
        self._tasks = Tasks()

    async def start(
        self, path: Path | None, address: tuple[str, int] | None = None, tls: ssl.SSLContext | None = None
    ) -> list[str]:
        """Listen at a Unix socket, at an address with mutual TLS, or both; where that is. Raises ``OSError``."""
        where = []
        self._tasks.forever("judge", self._judging)
        if path is not None:
            self._servers.append(await asyncio.start_unix_server(self._serve, sock=listen_at(path)))
            where.append(f"unix:{path}")
        if address is not None:
            server = await asyncio.start_server(self._serve, *address, ssl=tls)
            self._servers.append(server)
            host, port = server.sockets[0].getsockname()[:2]
            where.append(f"tls:{host}:{port}")
        return where

    async def close(self) -> None:
        """End."""
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._tasks.close()

    @property
    def open(self) -> int:
        """Connections at this moment."""
        return len(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self.routers:
            self.counts.turned_away += 1
            writer.close()
            return
        self._connections.add(task)
        name = _name(writer)
        room = asyncio.Semaphore(self.pending)
        try:
            while (data := await read(reader)) is not None:
                said: Judge | Over | Count = unpack(data, Judge | Over | Count)
                if isinstance(said, Count):
                    self._answer(writer, Counted({} if name else self.counts.facts()))
                    continue
                await room.acquire()
                self._queue.put_nowait((_named(said, name), writer, room))
        except (FrameError, OSError) as error:
            log.warning("lost a router", extra={"router": name or "local", "error": str(error)})
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            with contextlib.suppress(OSError):
                writer.close()

    async def _judging(self) -> None:
        while True:
            taken = [await self._queue.get()]
            while len(taken) < self.batch and not self._queue.empty():
                taken.append(self._queue.get_nowait())
            # Accepting a check waits for a disk: not on the thread that reads from routers.
            answers = await asyncio.to_thread(self._decide, [said for said, _, _ in taken])
            for (said, writer, room), verdict in zip(taken, answers, strict=True):
                room.release()
                if isinstance(said, Judge) and verdict is not None and not writer.is_closing():
                    self._answer(writer, Judged(said.number, verdict))
            await asyncio.sleep(0)

    def _answer(self, writer: asyncio.StreamWriter, answer: Judged | Counted) -> None:
        if writer.transport.get_write_buffer_size() > _UNREAD:
            self.counts.unread += 1
            writer.transport.abort()
            return
        writer.write(pack(answer))

    def _decide(self, said: list[Judge | Over]) -> list[Verdict | None]:
        now = self._wall()
        asks = [each.ask for each in said if isinstance(each, Judge)]
        self.counts.batches += 1
        try:
            verdicts = iter(self.decider.decide_many(asks, now) if asks else ())
            for each in said:
                if isinstance(each, Over):
                    self.decider.release(each.ask, now)
                    self.counts.ended += 1
            found: list[Verdict | None] = [next(verdicts) if isinstance(each, Judge) else None for each in said]
        except Exception:  # a decider that fails must not accept, and must not end the service
            log.exception("the decider failed")
            self.counts.failed += 1
            sorry = Verdict(
                False, Policy.REJECTED, "the policy decision point has a fault: its operator finds it in the log", 0.0, ""
            )
            return [sorry if isinstance(each, Judge) else None for each in said]
        for verdict in found:
            if verdict is not None:
                self.counts.accepted += verdict.accepted
                self.counts.refused += not verdict.accepted
                if not verdict.accepted:
                    self.counts.reasons[_WORDS.get(verdict.code, "other")] += 1
        return found


def _named(said: Judge | Over, name: str | None) -> Judge | Over:
    """The router's name from its certificate, in place of what it says itself."""
    if name is None:
        return said
    ask = Ask(**{field: getattr(said.ask, field) for field in Ask.__struct_fields__} | {"router": name})
    return Judge(said.number, ask) if isinstance(said, Judge) else Over(ask)


def _name(writer: asyncio.StreamWriter) -> str | None:
    """Who is behind TLS: the last part of the certificate's URI, or its common name; ``None`` on a Unix socket."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    if tls is None:
        return None
    data = tls.getpeercert(binary_form=True)
    assert data is not None
    certificate = x509.load_der_x509_certificate(data)
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
            return uri.rpartition("/")[2]
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(common[0].value) if common else "unnamed"


def listen_at(path: Path) -> socket.socket:
    """A Unix socket for its owner and group. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    return listener


def tls_context(certificate: str, key: str, roots: str, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with certificates on both sides. Raises ``ConfigError`` naming the files and no secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    present(context, certificate, key)
    try:
        context.load_verify_locations(roots)
    except OSError as error:
        raise ConfigError(roots, "roots", f"cannot be read as certificates: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = False  # the roots are the provider's own: whoever they vouch for is its policy decision point
    return context


def present(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Show that certificate from the next handshake on. Raises ``ConfigError``."""
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise ConfigError(certificate, "certificate", f"no certificate with its key ({key}) can be read: {error}") from error
