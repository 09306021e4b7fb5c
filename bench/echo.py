"""``python -m bench.echo PORT``: answers what comes on loopback with the same bytes, on as many connections as there are."""

from __future__ import annotations

import selectors
import socket
import sys


def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    ready = selectors.DefaultSelector()
    ready.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            stream = key.fileobj
            assert isinstance(stream, socket.socket)
            if stream is listener:
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ready.register(accepted, selectors.EVENT_READ)
            elif not _echo(stream):
                ready.unregister(stream)
                stream.close()


def _echo(stream: socket.socket) -> bool:
    """Small pieces only, so that a blocking answer never waits. ``False``: the other side has ended."""
    try:
        data = stream.recv(4096)
        stream.sendall(data)
    except OSError:
        return False
    return bool(data)


if __name__ == "__main__":
    main()
