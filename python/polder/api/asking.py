"""``ask_now``: a question to the administrator's socket from a command that runs nothing else and shall be quick.

The same calls as ``polder.api.admin.ask``, over the standard library alone: aiohttp takes longer to import than the answer to come.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_PATIENCE_S = 5.0


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("polder", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        """To the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask_now(path: Path, name: str) -> dict[str, Any]:
    """GET a route of the process behind ``path``. Raises ``OSError`` (nobody there, or too late) or ``ValueError`` (its refusal)."""
    connection = _Unix(path)
    try:
        connection.request("GET", f"/v1/{name}")
        answer = connection.getresponse()
        body = json.loads(answer.read())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise FileNotFoundError(f"nothing answers at {path}: start it first") from error
    except http.client.HTTPException as error:
        raise OSError(f"{path} does not answer as it should: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200 or not isinstance(body, dict):
        raise ValueError(str(body.get("detail", body)) if isinstance(body, dict) else "no object came")
    return body
