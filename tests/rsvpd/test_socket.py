"""The daemon's socket without a daemon behind it: answers of any size that a full router can give."""

from __future__ import annotations

import asyncio
from pathlib import Path

from polder.pdp.frames import MOST, pack, read, unpack
from polder.rsvpd.client import Connection
from polder.rsvpd.values import MOST_SHOWN, Asked, Show, Shown


async def test_the_state_of_a_full_router_can_be_shown(tmp_path: Path) -> None:
    flow = {
        "session": "udp 2001:db8::ffff port 65535",
        "senders": ["2001:db8::1 port 6000"],
        "rate": 123456.0,
        "state": "granted",
    }
    facts = {"reservations": [flow] * 4096, "senders": [flow] * 4096, "enforced": [flow] * 4096}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await read(reader)
        assert data is not None
        said: Asked = unpack(data, Asked)
        assert isinstance(said, Show)
        answer = pack(Shown(facts), MOST_SHOWN)
        assert len(answer) > 4 * MOST
        writer.write(answer)

    server = await asyncio.start_unix_server(serve, path=tmp_path / "rsvp.sock")
    async with await Connection.open(tmp_path / "rsvp.sock") as daemon:
        assert await daemon.show() == facts
    server.close()
