"""``python -m polder.lab.steady JSON``: one long download over TLS, and how evenly it came.

The argument has ``address``, ``port``, ``name`` (of the certificate and host), ``path``, ``ca`` (file) and ``seconds``. Prints ``start``
(monotonic clock), and for every ``SLICE_S`` the bytes that came; and ``gaps``: the pauses above ``GAP_S`` between two reads, with the time
since ``start`` at which each began.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from typing import Any

SLICE_S, GAP_S = 0.1, 0.2
_PATIENCE_S = 60.0


def download(address: str, port: int, name: str, path: str, ca: str, seconds: float) -> dict[str, Any]:
    """Read for ``seconds`` after the first byte; raises ``OSError`` when the connection breaks or ends before."""
    context = ssl.create_default_context(cafile=ca)
    with (
        socket.create_connection((address, port), timeout=_PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        into = bytearray(1 << 16)
        if not tls.recv_into(into):
            raise ConnectionError("no answer")
        start = last = time.monotonic()
        slices, gaps = [0] * round(seconds / SLICE_S), []
        while last - start < seconds:
            count = tls.recv_into(into)
            now = time.monotonic()
            if not count:
                raise ConnectionError("the download ended early")
            if now - last > GAP_S:
                gaps.append((round(last - start, 3), round(now - last, 3)))
            last = now
            place = int((now - start) / SLICE_S)
            if place < len(slices):
                slices[place] += count
    return {"start": start, "slices": slices, "gaps": gaps}


def main() -> int:
    """Exit status 1 when the download broke; why: on stderr."""
    try:
        print(json.dumps(download(**json.loads(sys.argv[1]))))
    except OSError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
