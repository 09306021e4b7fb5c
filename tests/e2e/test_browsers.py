"""Real Chromium reads a page with images and a WebSocket echo: through the forwarder, over relays, straight through an access point.

Screenshots are kept under ``build/artefacts``.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from polder.model import PathMode
from tests.e2e.conftest import SITES, World
from tests.support.browser import CHROMIUM, Browser, Home, can_set_policies
from tests.support.origin import IMAGES
from tests.support.overlay import Process, polder

ARTEFACTS = Path(__file__).parents[2] / "build" / "artefacts"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or shutil.which("certutil") is None, reason="needs chromium and libnss3-tools"),
]


async def read_gallery(browser: Browser, world: World, site: str, picture: str, scheme: str = "http") -> None:
    """Read the page as a user would and judge it by what its own script saw."""
    world.origin.requests.clear()
    assert await browser.open(f"{scheme}://{site}.test/gallery") == ""
    await browser.wait("document.title === 'done' || document.title === 'failed'")
    assert await browser.value("window.result") == {"widths": [96] * IMAGES, "text": "echo from the browser"}
    await browser.screenshot(ARTEFACTS / picture)
    paths = [path for _, path, _ in world.origin.requests]
    assert sorted(path for path in paths if path.startswith("/image/")) == sorted(f"/image/{n}" for n in range(IMAGES))
    assert paths.count("/echo") == 1


def trust_origin(home: Home, world: World, directory: Path) -> None:
    """Let the browser accept the site's own certificate, as it would a public one."""
    file = directory / "origin.pem"
    file.write_bytes(world.origin.certificate)
    home.trust(file, "origin")


@pytest.mark.parametrize("mode", list(PathMode))
async def test_a_page_through_the_forwarders_pac(world: World, tmp_path: Path, mode: PathMode) -> None:
    home = Home(tmp_path)
    trust_origin(home, world, tmp_path)
    async with Browser(home, f"--proxy-pac-url=http://{world.proxy}/proxy.pac") as browser:
        await read_gallery(browser, world, SITES[mode], f"browser-forwarder-{mode}.png")
        await read_gallery(browser, world, SITES[mode], f"browser-forwarder-{mode}-https.png", "https")


async def test_a_page_and_an_upload_over_relays(world: World, spread: Process, tmp_path: Path) -> None:
    home = Home(tmp_path)
    trust_origin(home, world, tmp_path)
    proxy = spread.hello["proxy"]
    async with Browser(home, f"--proxy-pac-url=http://{proxy}/proxy.pac") as browser:
        await read_gallery(browser, world, "wiki", "browser-spread.png")
        await read_gallery(browser, world, "wiki", "browser-spread-https.png", "https")
        size = 3 << 20
        post = f"fetch('/upload', {{method: 'POST', body: new Uint8Array({size}).fill(7)}}).then(answer => answer.json())"
        assert await browser.value(post) == {"length": size, "sum": 7 * size % 65521}
    (session,) = polder(world.overlay.state("user-sue"), "paths")["sessions"]
    assert session["tunnels"] >= 3 and session["up"], "it came over relays"


async def test_who_is_not_admitted_sees_a_page_that_says_so(world: World, tmp_path: Path) -> None:
    async with Browser(Home(tmp_path), f"--proxy-pac-url=http://{world.stranger_proxy}/proxy.pac") as browser:
        await browser.open("http://wiki.test/gallery")
        assert await browser.wait("document.querySelector('h1')?.textContent") == "You may not read this site"
        await browser.screenshot(ARTEFACTS / "browser-refused.png")


@pytest.mark.skipif(not can_set_policies(), reason="needs root, to answer the browser's question for a certificate by a policy")
async def test_a_page_straight_through_an_access_point(world: World, tmp_path: Path) -> None:
    """With nothing but what ``polder client profile`` makes: the root, the .p12 and the PAC file."""
    state = world.overlay.state("user-ann")
    made = polder(state, "client", "profile", "--for", "ann", "--out", str(tmp_path / "profile"))
    home = Home(tmp_path)
    home.trust(tmp_path / "profile" / "overlay-root.pem", "overlay")
    trust_origin(home, world, tmp_path)
    home.own(tmp_path / "profile" / "ann.p12", made["password"])
    home.choose_certificate(*(f"https://{node.hello['address']}" for node in world.overlay.nodes.values()))
    pac = base64.b64encode((tmp_path / "profile" / "polder.pac").read_bytes()).decode()
    async with Browser(home, f"--proxy-pac-url=data:application/x-ns-proxy-autoconfig;base64,{pac}") as browser:
        await read_gallery(browser, world, "wiki", "browser-access-point.png")
        await read_gallery(browser, world, "wiki", "browser-access-point-https.png", "https")
