"""Reads the pages of a metrics listener, and judges them with Prometheus's own tool."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from aiohttp import ClientSession, UnixConnector
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

Page = tuple[int, str, str]
"""Status, content type, body."""


def page(socket: Path, path: str, **headers: str) -> Page:
    """Ask the process whose metrics socket is ``socket``."""
    return asyncio.run(fetch(f"http://polder{path}", socket, **headers))


async def fetch(url: str, socket: Path | None = None, method: str = "GET", **headers: str) -> Page:
    """Ask over a Unix socket, or over TCP. Header names with ``_`` for ``-``."""
    connector = UnixConnector(str(socket)) if socket is not None else None
    asked = {name.replace("_", "-"): value for name, value in headers.items()}
    async with ClientSession(connector=connector) as session, session.request(method, url, headers=asked) as response:
        return response.status, response.content_type, await response.text()


def families(text: str) -> dict[str, Metric]:
    """An OpenMetrics page by name of family; fails on anything that is not OpenMetrics."""
    return {family.name: family for family in text_string_to_metric_families(text)}


def promtool(*arguments: str, stdin: str = "") -> str:
    """What ``promtool`` says; fails unless it is content."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: scripts/system-packages")
    done = subprocess.run([tool, *arguments], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"promtool {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
