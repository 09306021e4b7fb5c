"""A real Chromium, driven over its DevTools protocol, with a home of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60.0
_POLICIES = Path("/etc/chromium")


def can_set_policies() -> bool:
    """Whether policies can be given to a Chromium without changing the machine: by a mount in a namespace of its own."""
    probe = ["unshare", "--mount", "true"]
    return os.geteuid() == 0 and _POLICIES.is_dir() and subprocess.run(probe, check=False, capture_output=True).returncode == 0


class Home:
    """A home directory with a certificate store and policies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / ".pki" / "nssdb"
        self.policies = root / "policies"
        self.store.mkdir(parents=True)
        self.policies.mkdir()
        self._run("certutil", "-N", "-d", f"sql:{self.store}", "--empty-password")

    def trust(self, root_certificate: Path, name: str) -> None:
        """Let the browser accept servers under this root."""
        self._run("certutil", "-A", "-d", f"sql:{self.store}", "-n", name, "-t", "C,,", "-i", str(root_certificate))

    def own(self, p12: Path, password: str) -> None:
        """Import a client certificate and its key."""
        secret = self.root / "password"
        secret.write_text(password)
        secret.chmod(0o600)
        self._run("pk12util", "-i", str(p12), "-d", f"sql:{self.store}", "-w", str(secret), "-K", "")
        secret.unlink()

    def choose_certificate(self, *urls: str) -> None:
        """Answer the question which certificate to use, as the user would."""
        rules = [json.dumps({"pattern": url, "filter": {}}) for url in urls]
        policy = {"AutoSelectCertificateForUrls": rules}
        managed = self.policies / "policies" / "managed"
        managed.mkdir(parents=True)
        (managed / "polder.json").write_text(json.dumps(policy))

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


class Browser:
    """A running Chromium; ``async with`` ends it."""

    def __init__(self, home: Home, *flags: str) -> None:
        assert CHROMIUM is not None
        self._home = home
        self._flags = flags
        self._next = 0

    async def __aenter__(self) -> Browser:
        profile = self._home.root / "profile"
        command: Sequence[str] = [
            CHROMIUM or "",
            "--headless=new",
            "--no-sandbox",
            "--no-first-run",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
            "--window-size=900,700",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            *self._flags,
            "about:blank",
        ]
        if any(self._home.policies.iterdir()):
            mount = 'mount --bind "$0" /etc/chromium && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, str(self._home.policies), *command]
        environment = {**os.environ, "HOME": str(self._home.root)}
        self._log = (self._home.root / "chromium.log").open("w")
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, start_new_session=True
        )
        self._http = aiohttp.ClientSession()
        address = await self._debug_address(profile / "DevToolsActivePort")
        async with self._http.get(f"http://{address}/json/list") as response:
            pages = [target for target in await response.json() if target["type"] == "page"]
        self._socket = await self._http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=1 << 26)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._socket.close()
        await self._http.close()
        os.killpg(self._process.pid, 15)
        try:
            await asyncio.to_thread(self._process.wait, 20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
        self._log.close()

    async def open(self, url: str) -> str:
        """Navigate; returns the network error (empty: none)."""
        answer = await self._call("Page.navigate", url=url)
        return str(answer.get("errorText", ""))

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = await self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def wait(self, expression: str) -> Any:
        """Until the expression is true; returns its value."""
        end = asyncio.get_running_loop().time() + PATIENCE
        while not (value := await self.value(expression)):
            text = await self.value("document.documentElement.innerText")
            assert asyncio.get_running_loop().time() < end, f"{expression} did not become true; the page says: {text}"
            await asyncio.sleep(0.05)
        return value

    async def screenshot(self, path: Path) -> None:
        """Keep what the user sees."""
        answer = await self._call("Page.captureScreenshot", format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        await self._socket.send_json({"id": self._next, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=PATIENCE)
            if message.get("id") == self._next:
                assert "result" in message, message
                return dict(message["result"])

    async def _debug_address(self, file: Path) -> str:
        end = asyncio.get_running_loop().time() + PATIENCE
        while not file.exists() or not file.read_text().count("\n"):
            assert self._process.poll() is None, (self._home.root / "chromium.log").read_text()[-2000:]
            assert asyncio.get_running_loop().time() < end, "Chromium does not start"
            await asyncio.sleep(0.05)
        return f"127.0.0.1:{file.read_text().splitlines()[0]}"
