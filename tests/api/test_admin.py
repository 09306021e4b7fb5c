"""The administrator's socket lets in its owner and root, whatever the file's mode says."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polder.api.admin import AdminServer, ask

AS_NOBODY = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: polder\\r\\n\\r\\n")
print(s.recv(4096).decode())
"""


async def test_its_owner_asks_and_bad_arguments_are_told(tmp_path: Path) -> None:
    def status(arguments: dict[str, object]) -> dict[str, object]:
        return {"asked": arguments["x"]}

    server = AdminServer(tmp_path / "admin.sock", {"status": status})
    await server.start()
    try:
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600
        assert await ask(tmp_path / "admin.sock", "status", {"x": 1}) == {"asked": 1}
        with pytest.raises(ValueError, match="x"):
            await ask(tmp_path / "admin.sock", "status")
    finally:
        await server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_is_refused_even_where_the_file_lets_in(tmp_path: Path) -> None:
    for parent in [*tmp_path.parents][:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    tmp_path.chmod(0o755)
    server = AdminServer(tmp_path / "admin.sock", {"status": lambda _: {"secret": "servlet n1"}})
    await server.start()
    try:
        (tmp_path / "admin.sock").chmod(0o666)
        command = [sys.executable, "-c", AS_NOBODY, str(tmp_path / "admin.sock")]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    finally:
        await server.close()
    assert said.stdout.startswith("HTTP/1.1 403 ")
    assert "servlet" not in said.stdout
