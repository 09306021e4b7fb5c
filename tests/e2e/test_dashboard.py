"""The dashboards over a running overlay: what their owners see, and that nobody else sees anything."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from polder.dashboard.choice import Watcher, models
from polder.dashboard.source import Source
from polder.dashboard.terminal import Terminal, TileBox
from polder.settings import StateDir
from tests.e2e.conftest import NODES, World
from tests.support.browser import CHROMIUM, Browser, Home
from tests.support.overlay import POLDER, environment, polder

SECRETS = ("n1", "n2", "n3", "wiki", "servlet", "beacon", "node")


class Dashboard:
    """``polder dashboard`` over one state directory."""

    def __init__(self, state: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [*POLDER, "dashboard", "--listen", "127.0.0.1:0", "--json", *options],
            env=environment(state),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.address = json.loads(line)["listen"]
        self.file = Path(json.loads(line)["url_file"])
        self.url = self.file.read_text().strip()
        self.base, _, self.token = self.url.partition("/#")

    def end(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) == 130


@pytest.fixture(scope="module")
def site(world: World) -> Iterator[Dashboard]:
    """The dashboard of the wiki's owner."""
    made = Dashboard(world.overlay.state("site-wiki"))
    yield made
    made.end()
    assert not made.file.exists(), "the key ends with the session"


def test_the_key_is_told_to_a_person_or_kept_in_a_private_file(site: Dashboard) -> None:
    assert site.file.stat().st_mode & 0o077 == 0
    command = Path(f"/proc/{site.process.pid}/cmdline").read_bytes() + Path(f"/proc/{site.process.pid}/environ").read_bytes()
    assert site.token.encode() not in command and len(site.token) >= 40


async def test_without_the_key_or_from_elsewhere_nothing_is_told(site: Dashboard) -> None:
    """Unauthenticated, wrong key, foreign Host (DNS rebinding), foreign Origin, other methods and paths."""
    key = {"Authorization": f"Bearer {site.token}"}
    strangers: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", "/api/stream", {}, 401),
        ("GET", "/api/stream?view=0", {"Authorization": "Bearer wrong"}, 401),
        ("GET", "/api/anything", {}, 401),
        ("GET", "/api/stream", key | {"Host": f"evil.test:{site.address.rpartition(':')[2]}"}, 421),
        ("GET", "/", {"Host": "evil.test"}, 421),
        ("GET", "/api/stream", key | {"Origin": "http://evil.test"}, 403),
        ("GET", "/api/stream", key | {"Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", "/api/act", key, 403),
        ("POST", "/api/act", key | {"Origin": "null"}, 403),
        ("POST", "/api/act", {"Origin": f"http://{site.address}"}, 401),
        ("GET", "/api/act", key, 405),
        ("OPTIONS", "/api/stream", {"Origin": "http://evil.test"}, 403),
        ("GET", "/../../etc/passwd", {}, 401),
        ("GET", "/api/stream?view=99", key, 404),
    ]
    async with aiohttp.ClientSession() as session:
        for method, path, headers, status in strangers:
            async with session.request(method, f"{site.base}{path}", headers=headers, data=b"{}") as answer:
                text = (await answer.text()).lower()
                assert answer.status == status, (method, path, headers, text)
                assert not any(secret in text for secret in SECRETS), text
                assert "access-control-allow-origin" not in answer.headers
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        for asset in ("/", "/app.js", "/plot.js", "/style.css"):
            async with session.get(f"{site.base}{asset}") as answer:
                assert answer.status == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
                assert site.token not in await answer.text()


async def test_with_the_key_views_are_live_and_actions_are_done(site: Dashboard) -> None:
    headers = {"Authorization": f"Bearer {site.token}"}
    origin = headers | {"Origin": f"http://{site.address}"}
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{site.base}/api/stream?view=0", headers=headers) as answer:
            assert await _event(answer) == ("names", ["site wiki"])
            seen = [await _event(answer) for _ in range(2)]
        (_, first), (_, second) = seen
        assert first["kind"] == "owner" and second["at"] > first["at"]
        assert not any(name in json.dumps(second) for name in NODES), "servlets are not named without --reveal"
        epoch = next(tile["note"] for tile in second["tiles"] if tile["id"] == "rotation")
        body = json.dumps({"view": 0, "action": "rotate", "choice": ""})
        async with session.post(f"{site.base}/api/act", headers=origin, data=body) as answer:
            said = await answer.json()
            assert answer.status == 200 and said["done"] and said["said"].removeprefix("Rotating: ").rstrip(".") != epoch
        for wrong in ('{"view": 0, "action": "burn", "choice": "n1"}', '{"view": 7, "action": "rotate"}', "nonsense", '{"x": 1}'):
            async with session.post(f"{site.base}/api/act", headers=origin, data=wrong) as answer:
                assert answer.status == 400 and not (await answer.json())["done"]


async def _event(answer: aiohttp.ClientResponse) -> tuple[str, object]:
    async with asyncio.timeout(20):
        name = (await answer.content.readline()).decode().strip().removeprefix("event: ")
        data = (await answer.content.readuntil(b"\n\n")).decode().removeprefix("data: ")
    return name, json.loads(data)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
async def test_a_browser_shows_it_and_breaks_no_rule_of_its_own_policy(site: Dashboard) -> None:
    with tempfile.TemporaryDirectory() as home:
        async with Browser(Home(Path(home))) as browser:
            await browser.open(site.url)
            assert await browser.wait("document.querySelectorAll('.tile').length") == 8
            assert await browser.value("location.hash") == "", "the key does not stay in the address"
            await browser.wait("document.querySelectorAll('.curve').length > 5")
            assert "wiki" in await browser.value("document.title")
            listen = "window.broken = []; addEventListener('securitypolicyviolation', e => broken.push(e.violatedDirective))"
            await browser.value(listen)
            clock = await browser.value("document.getElementById('clock').textContent")
            await browser.wait(f"document.getElementById('clock').textContent !== {json.dumps(clock)}")
            assert await browser.value("broken.length") == 0
            unnamed = "[...document.querySelectorAll('button')].filter(b => !b.textContent.trim() && !b.ariaLabel).length"
            assert await browser.value(unnamed) == 0


async def test_the_terminal_shows_every_view_in_any_size(world: World) -> None:
    """The owner's and the user's screens over the real overlay; keys, resize, pause."""
    for state, heading in ((world.overlay.state("site-wiki"), "Site wiki"), (world.overlay.state("n1"), "Overlay")):
        source = Source(StateDir(state))
        watcher = Watcher(source, models(source))
        await watcher.begin()
        app = Terminal(watcher.names, watcher.look, 0.2)
        async with app.run_test(size=(80, 24)) as pilot:
            await _until(lambda app=app: app.shown is not None and len(app.query(TileBox)) == 8)  # type: ignore[misc]
            await pilot.pause()
            assert heading in _screen(app)
            before = app.shown
            await pilot.press("space")
            held = app.shown
            await pilot.press("g")
            await pilot.resize_terminal(200, 60)
            await pilot.pause()
            assert app.shown is held and "paused" in _screen(app) and before is not None
            assert any(plot.title in _screen(app) for plot in before.plots)
            await pilot.press("space")
            await _until(lambda app=app, held=held: app.shown is not held)  # type: ignore[misc]
            await pilot.resize_terminal(40, 12)
            await pilot.pause()
            await pilot.press("q")
        assert app.return_code == 0
        await source.close()


def test_once_prints_for_people_and_programs(world: World) -> None:
    view = polder(world.overlay.state("user-ann"), "watch")
    assert view["kind"] == "user" and view["level"] == "good" and len(view["tiles"]) == 8
    done = subprocess.run(
        [*POLDER, "watch", "wiki", "--once"], env=environment(world.overlay.state("site-wiki")), capture_output=True, text=True
    )
    assert done.returncode in (0, 3) and "Next:" in done.stdout and not any(f" {name} " in done.stdout for name in NODES)
    missing = subprocess.run(
        [*POLDER, "watch", "nowhere"], env=environment(world.overlay.state("n1")), capture_output=True, text=True
    )
    assert missing.returncode == 2 and "nowhere" in missing.stderr


def _screen(app: Terminal) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def _until(true: object) -> None:
    async with asyncio.timeout(30):
        while not true():  # type: ignore[operator]
            await asyncio.sleep(0.05)
