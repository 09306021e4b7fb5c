"""A new user follows the journey pages, inside namespaces: ``python -m tests.e2e.journeys_inside ROOT PAGE…``.

The machines of the pages are state directories in one network namespace which has all their addresses, so every command is typed
as it is printed; only the pin is put in, and ``ssh router`` becomes a shell there. Prints one JSON object: page → [[machine,
command, what it said]].
"""

from __future__ import annotations

import asyncio
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

from polder.api.admin import ask
from polder.lab import enclosure
from tests.support.overlay import until
from tests.support.typed import Reader, blocks

ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "203.0.113.10")
PAGE = b"<!doctype html><title>Wiki</title><h1>The wiki is up</h1>"
MAY_FIND = (
    "polder status",
    "polder doctor",
    "polder watch",
    "polder drill",
    "polder config check",
    "polder incident",
    "polder paths",
)
"""Commands that may end with status 3: in a small and young overlay there is something to find, and nobody who relays."""


class _Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


def settled(reader: Reader) -> bool:
    """Whether whoever runs has found the others: the pages do not tell anybody to wait."""
    places = [reader.state(name) / "node" / "admin.sock" for name in ("first-node", "second-node", "third-node")]
    known = [asyncio.run(ask(place, "status")) for place in places if place.exists()]
    return all(status["joined"] and status["members"] == len(known) for status in known)


def story(root: Path, pages: list[str]) -> int:
    """Follow every page; its commands must end as they should."""
    for address in ADDRESSES:
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", 8080), _Origin).serve_forever, daemon=True).start()
    reader = Reader(root, {"ssh router ": f"env POLDER_STATE={root / 'router'} "})
    said: dict[str, list[tuple[str, str, str]]] = {}
    try:
        for page in pages:
            said[page] = []
            for line in blocks(Path(page).read_text()):
                text = line.text.split("#")[0].strip()
                if text.startswith("make "):
                    text = subprocess.run(["make", "-n", *text.split()[1:]], capture_output=True, text=True, check=True).stdout
                    said[page].append((line.machine, line.text, text))
                    continue
                heard = reader.follow(line, (0, 3) if text.startswith(MAY_FIND) else (0,))
                said[page].append((line.machine, line.text, heard))
                if text.startswith("polder init"):
                    pin = next(word for word in heard.split() if word.startswith("sha256:"))
                    reader.replace["sha256:…"] = pin
                if text.startswith(("polder node run", "polder drill")):
                    until(lambda: settled(reader), "the nodes find each other")
        print(json.dumps(said))
        return 0
    finally:
        reader.close()


if __name__ == "__main__":
    try:
        sys.exit(enclosure.run(lambda: story(Path(sys.argv[1]), sys.argv[2:])))
    except enclosure.NoNamespacesError as error:
        print(error, file=sys.stderr)
        sys.exit(77)
