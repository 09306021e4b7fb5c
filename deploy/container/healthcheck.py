"""The container's health: ``/livez`` of whatever part of Polder runs in it, over the Unix socket in its state directory."""

import http.client
import os
import socket
import sys
from pathlib import Path


class Unix(http.client.HTTPConnection):
    """HTTP over the Unix socket at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=4)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def main() -> int:
    """0 when every part that runs here answers, and one does."""
    sockets = sorted(Path(os.environ.get("POLDER_STATE", "/var/lib/polder")).glob("**/metrics.sock"))
    for path in sockets:
        asked = Unix(path)
        try:
            asked.request("GET", "/livez")
            answer = asked.getresponse()
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
        if answer.status != 200:
            print(f"{path}: {answer.status} {answer.read(500)!r}", file=sys.stderr)
            return 1
    if not sockets:
        print("nothing of Polder runs here", file=sys.stderr)
    return 0 if sockets else 1


if __name__ == "__main__":
    sys.exit(main())
