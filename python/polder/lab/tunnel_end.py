"""``python -m polder.lab.tunnel_end``: one end of a GRE tunnel on a laboratory's host, with the product's own parts.

Configuration (JSON) on the first line of stdin, a report (JSON) on stdout when stdin ends. ``serve`` answers over TCP at its inner
address; ``ask`` opens connection after connection to the other end and compares what comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from typing import Any

from polder.engine.gre import GreConfig, GreEndpoint, GrePeer
from polder.host import LocalHost, Tunnel, TunnelPeer
from polder.shell.clock import wall

PORT = 7080
ANSWER = hashlib.sha256(b"polder").digest() * 2000
"""64 kB: some dozens of full packets."""
_PATIENCE_S = 5.0


async def _serve(address: str, over: asyncio.Event) -> dict[str, int]:
    served = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        await reader.readline()
        writer.write(ANSWER)
        await writer.drain()
        writer.close()
        served += 1

    server = await asyncio.start_server(answer, address, PORT)
    print(json.dumps({"ready": address}), flush=True)
    await over.wait()
    server.close()
    return {"served": served}


async def _ask(address: str, over: asyncio.Event) -> dict[str, int]:
    asked = right = 0
    print(json.dumps({"ready": address}), flush=True)
    while not over.is_set():
        asked += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(address, PORT)
                writer.write(b"please\n")
                right += await reader.read(-1) == ANSWER
                writer.close()
        except (OSError, TimeoutError) as error:
            print(error, file=sys.stderr)
    return {"asked": asked, "right": right}


async def _main() -> int:
    said: dict[str, Any] = json.loads(sys.stdin.readline())
    peers = [(each["outer"], each["key"], tuple(each["inner"])) for each in said["peers"]]
    host = LocalHost(wall)
    wish = Tunnel("pldlab", tuple(said["inner"]), tuple(said["local"]), tuple(TunnelPeer(*peer) for peer in peers), mode="tun")
    _, descriptors = await host.tunnel(wish)
    config = GreConfig(tuple(GrePeer(outer, key, (key,), inner) for outer, key, inner in peers), wish.mtu)
    endpoint = GreEndpoint(descriptors, config)
    over = asyncio.Event()
    waiting = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    waiting.add_done_callback(lambda _: over.set())
    work, began = _serve if said["work"] == "serve" else _ask, time.process_time()
    report = await work(said["address"], over)
    print(json.dumps(report | endpoint.counters() | {"cpu_s": time.process_time() - began}), flush=True)
    endpoint.stop()
    await host.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
