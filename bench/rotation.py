"""``make bench`` part ``rotation``: servlets rotate every 5 s under open streams. Writes ``bench/results/rotation.json``.

For each transport and path mode an overlay of its own in the laboratory's wide area: a user reads 200 MB through a CONNECT tunnel
from an origin that sends 5 MB/s, and talks over a WebSocket (plain HTTP with an upgrade) once a second, while the site's agent
draws fresh servlets every 5 s with 4 s of grace, far less than the streams live. Neither may break or lose a byte. Two of the
overlays carry for a site that is told its users in signed header fields, where the agent reads every request.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import WSMsgType, web

from polder.lab import enclosure, experiment, results, topology
from polder.lab.experiment import SITE_NAME
from polder.lab.overlay import Overlay
from polder.lab.plots import DIKE, SEA
from polder.lab.processes import Processes, wait_until_listening
from polder.lab.results import Claim, Measure, Result
from polder.lab.world import World

CASES = (
    *itertools.product(("dialout", "gre"), ("beacon", "ring", "direct"), ("nothing",)),
    ("dialout", "ring", "header"),
    ("gre", "beacon", "header"),
)
"""Transport, path mode, how the site is told its users."""
RATE = 5_000_000
"""Bytes per second that the origin sends."""
SIZE, QUICK_SIZE = 200_000_000, 40_000_000
ROTATION_S, GRACE_S = 5, 4
_NODES = 8
_MBIT = 200.0
_PIECE = bytes(range(251)) * 261
_TICK_S = 0.05


def expected(size: int) -> str:
    """SHA-256 of what the origin sends."""
    digest = hashlib.sha256()
    for at in range(0, size, len(_PIECE)):
        digest.update(_PIECE[: size - at])
    return digest.hexdigest()


# On the site's host


async def _slow(request: web.Request) -> web.StreamResponse:
    """``/slow/N``: N bytes, no faster than ``RATE``. ``?told``: only for a user whose name came along."""
    if "told" in request.query and request.headers.getall("Polder-User", []) != ["user"]:
        raise web.HTTPForbidden
    size = int(request.match_info["size"])
    response = web.StreamResponse(headers={"Content-Length": str(size)})
    await response.prepare(request)
    begin, sent = time.monotonic(), 0
    while sent < size:
        allowed = min(size, int((time.monotonic() - begin + _TICK_S) * RATE))
        while sent < allowed:
            piece = _PIECE[: size - sent]
            await response.write(piece)
            sent += len(piece)
        await asyncio.sleep(_TICK_S)
    return response


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def serve() -> None:
    """The origin, on port 80 of all addresses of the site's own host."""
    app = web.Application()
    app.add_routes([web.get("/slow/{size}", _slow), web.get("/echo", _echo)])
    web.run_app(app, host="0.0.0.0", port=80, access_log=None, print=None)


# On the user's host


async def download(host: str, port: int, size: int, query: str) -> dict[str, Any]:
    """Read ``/slow/size`` through a CONNECT tunnel of the forwarder."""
    begin = last = time.monotonic()
    digest, got, gap, trouble = hashlib.sha256(), 0, 0.0, ""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"CONNECT {SITE_NAME}:80 HTTP/1.1\r\nHost: {SITE_NAME}:80\r\n\r\n".encode())
        if b" 200 " not in await reader.readuntil(b"\r\n\r\n"):
            raise ConnectionError("the tunnel was refused")
        writer.write(f"GET /slow/{size}{query} HTTP/1.1\r\nHost: {SITE_NAME}\r\n\r\n".encode())
        if b" 200 " not in await reader.readuntil(b"\r\n\r\n"):
            raise ConnectionError("the origin refused")
        while got < size:
            async with asyncio.timeout(60):
                piece = await reader.read(1 << 16)
            if not piece:
                raise ConnectionError("cut")
            now = time.monotonic()
            gap, last = max(gap, now - last), now
            digest.update(piece)
            got += len(piece)
        writer.close()
    except (OSError, EOFError, TimeoutError) as error:
        trouble = f"{type(error).__name__}: {error}"
    whole = got == size and digest.hexdigest() == expected(size)
    return {"bytes": got, "whole": whole, "seconds": time.monotonic() - begin, "longest_gap_s": gap, "trouble": trouble}


async def chat(proxy: str, end: asyncio.Event) -> dict[str, Any]:
    """Say something every second over a WebSocket until ``end``, and hear it back."""
    echoes, slowest, trouble = 0, 0.0, ""
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://{SITE_NAME}/echo", proxy=proxy) as socket:
            while not end.is_set():
                said, text = time.monotonic(), f"message {echoes}"
                await socket.send_str(text)
                if (heard := await socket.receive_str(timeout=60)) != text:
                    raise ValueError(f"heard {heard!r}")
                slowest, echoes = max(slowest, time.monotonic() - said), echoes + 1
                await asyncio.sleep(1)
    except (aiohttp.ClientError, OSError, TimeoutError, TypeError, ValueError) as error:
        trouble = f"{type(error).__name__}: {error}"
    return {"echoes": echoes, "slowest_echo_s": slowest, "unbroken": not trouble, "trouble": trouble}


async def read(proxy: str, size: int, tell: str) -> dict[str, Any]:
    """Both at once."""
    host, _, port = proxy.removeprefix("http://").rpartition(":")
    end, began = asyncio.Event(), time.monotonic()
    talk = asyncio.create_task(chat(proxy, end))
    got = await download(host, int(port), size, "" if tell == "nothing" else "?told")
    end.set()
    return {"download": got, "chat": await talk, "began": began, "ended": began + got["seconds"]}


# The experiment


async def measure(folder: Path, transport: str, mode: str, tell: str, size: int) -> dict[str, Any]:
    """One overlay, one row."""
    described = topology.load("demo").resized({"node": _NODES, "user": 1, "bot": 1})
    site = described.site.model_copy(update={"up_mbit": _MBIT, "down_mbit": _MBIT}) if described.site else None
    groups = tuple(group.model_copy(update={"up_mbit": _MBIT, "down_mbit": _MBIT}) for group in described.groups)
    described = described.model_copy(update={"site": site, "groups": groups})
    more: dict[str, Any] = {"rotation": f"{ROTATION_S}s", "grace": f"{GRACE_S}s", "tell": tell}
    protection = {"transport": transport, "mode": mode, "servlets": 2, "more": more}
    world = World(described, folder)
    more |= {"origin": f"http://{world.hosts['site'].ipv4}:80", "origins": {}, "ports": [80]}
    try:
        async with Processes(folder) as processes:
            origin = await processes.start("site", "origin", [sys.executable, "-m", "bench.rotation", "--as-origin"])
            await wait_until_listening("site", 80, origin)
            overlay = Overlay(processes, world, folder, protection, print)
            await overlay.build(SITE_NAME)
            argv = [
                sys.executable,
                "-m",
                "bench.rotation",
                "--as-reader",
                overlay.proxies["user"],
                "--size",
                str(size),
                "--tell",
                tell,
            ]
            seen: list[dict[str, Any]] = []
            watching = asyncio.create_task(_watch(overlay, seen))
            output = await processes.run("user", "reader", argv, 900)
            watching.cancel()
            overlay.check()
            return {"transport": transport, "mode": mode, "tell": tell, **row(json.loads(output), seen)}
    finally:
        world.close()


async def _watch(overlay: Overlay, seen: list[dict[str, Any]]) -> None:
    """What the site's agent says, twice a second."""
    while True:
        seen.append(await overlay.site_status() | {"at": time.monotonic()})
        await asyncio.sleep(0.5)


def row(told: dict[str, Any], seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Flat, for the result. A rotation is a new epoch of appointments during the download."""
    seen = [one for one in seen if told["began"] <= one["at"] <= told["ended"]]
    got, talk = told["download"], told["chat"]
    for what, trouble in (("download", got["trouble"]), ("chat", talk["trouble"])):
        if trouble:
            print(f"the {what} broke: {trouble}", file=sys.stderr)
    return {
        "bytes": got["bytes"],
        "download_whole": int(got["whole"]),
        "download_s": round(got["seconds"], 1),
        "longest_gap_s": round(got["longest_gap_s"], 3),
        "echoes": talk["echoes"],
        "chat_unbroken": int(talk["unbroken"]),
        "slowest_echo_s": round(talk["slowest_echo_s"], 3),
        "rotations": len({one["epoch"] for one in seen}) - 1,
        "servlets_seen": len({name for one in seen for name in one["servlets"]}),
        "draining_most": max(sum(stage == "draining" for stage in one["servlets"].values()) for one in seen),
        "serving_least": min(one["serving"] for one in seen),
    }


def claims(quick: bool) -> list[Claim]:
    """What must hold."""
    rotations = 2 if quick else 6
    return [
        Claim("rotation.download", "every download arrived whole", "== 1", Measure("download_whole", fold="min")),
        Claim("rotation.chat", "no WebSocket broke", "== 1", Measure("chat_unbroken", fold="min")),
        Claim("rotation.often", "rotations during each download", f">= {rotations}", Measure("rotations", fold="min")),
        Claim(
            "rotation.all",
            "overlays tried: both transports in all path modes, and two that tell the site its users",
            "== 8",
            Measure("download_whole", fold="count"),
        ),
    ]


def draw(drawn: Any, rows: Any) -> None:
    """Rotations survived, and the longest time in which nothing arrived."""
    left, right = drawn.subplots(1, 2, sharey=True)
    names = [f"{one['transport']}, {one['mode']}" + (", told" if one["tell"] != "nothing" else "") for one in rows]
    left.barh(names, [one["rotations"] for one in rows], color=DIKE)
    left.set(title="Rotations under a 200 MB download", xlabel="rotations")
    right.barh(names, [one["longest_gap_s"] for one in rows], color=SEA)
    right.set(title="Longest pause in the download", xlabel="seconds")


def all_rows(quick: bool) -> list[dict[str, Any]]:
    """Every case in namespaces of its own."""
    rows = []
    for case in CASES:
        argv = [sys.executable, "-m", "bench.rotation", "--only", ",".join(case), *(["--quick"] if quick else [])]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.rotation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="40 MB instead of 200 MB")
    parser.add_argument("--only", metavar="TRANSPORT,MODE,TELL", help="one combination; nothing is written")
    parser.add_argument("--as-origin", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--as-reader", metavar="PROXY", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tell", default="nothing", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_origin:
        serve()
        return 0
    if arguments.as_reader:
        print(json.dumps(asyncio.run(read(arguments.as_reader, arguments.size, arguments.tell))))
        return 0
    size = QUICK_SIZE if arguments.quick else SIZE
    folder = experiment.new_directory("rotation").resolve()
    if arguments.only:
        transport, mode, tell = arguments.only.split(",")
        return enclosure.run(lambda: _one(folder, transport, mode, tell, size))
    return _record(all_rows(arguments.quick), size, arguments.quick)


def _one(folder: Path, transport: str, mode: str, tell: str, size: int) -> int:
    print(json.dumps(asyncio.run(measure(folder, transport, mode, tell, size))))
    return 0


def _record(rows: list[dict[str, Any]], size: int, quick: bool) -> int:
    parameters = {
        "nodes": _NODES,
        "bytes": size,
        "bytes_per_s": RATE,
        "rotation_s": ROTATION_S,
        "grace_s": GRACE_S,
        "servlets": 2,
    }
    title = "A download and a WebSocket while servlets rotate every 5 s"
    result = Result("rotation", parameters, rows, claims(quick), title)
    print(f"wrote {results.write(result, draw)}")
    return 0 if all(claim["holds"] for claim in result.record()["claims"]) else 3


if __name__ == "__main__":
    sys.exit(main())
