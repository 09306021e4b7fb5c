"""A door carries both ways, and ends with whoever opened it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

DOOR = [sys.executable, "-m", "polder.lab.door"]


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def test_a_door_carries_both_ways_and_ends_with_its_opener(tmp_path: Path) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5)).upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    path, port = tmp_path / "door", _free_port()
    inner = subprocess.Popen([*DOOR, "inside", str(server.sockets[0].getsockname()[1]), str(path)])
    outer = subprocess.Popen([*DOOR, "outside", str(port), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert outer.stdin is not None
    assert outer.stdout is not None
    try:
        assert await asyncio.to_thread(outer.stdout.readline) == "open\n"
        async with asyncio.timeout(20):
            while not path.exists():
                await asyncio.sleep(0.01)
        assert path.stat().st_mode & 0o077 == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.read() == b"HELLO"
        writer.close()
        outer.stdin.close()
        assert await asyncio.to_thread(outer.wait, 20) == 0
        assert not path.exists()
        with contextlib.suppress(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
            raise AssertionError("the door is still open")
    finally:
        for process in (inner, outer):
            process.kill()
            process.wait()
        outer.stdout.close()
        server.close()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        argv = [*DOOR, "outside", str(taken.getsockname()[1]), str(tmp_path / "door")]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "address already in use" in done.stderr
