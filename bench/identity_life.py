"""``make bench`` part ``identity-life``: three renewals of everybody and a rotation of the issuer, and no request fails.

Real processes on loopback, as `polder` runs them. What ages is certified time, so it is the lives that are shortened: a day becomes a
minute, for nodes, site, reader and the authority's own certificate, which is a clock of identities that runs 1,440 times as fast. Timers
of the transport stay as they are: a clock that ran ahead for them too would only loosen them, and under one that ran ahead for the wall
alone, deadlines and validity would no longer mean the same second. The reader loads pages, holds a WebSocket from the first second to
the last, across every certificate that it was opened with, and downloads. Writes ``bench/results/identity-life.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.origin import Origin
from tests.support.overlay import Overlay, Process, polder
from tests.support.readers import Readers

from polder.api.admin import ask
from polder.lab import results
from polder.lab.results import Claim, Measure, Result

LIFE, RENEWALS = 60, 3
NODES = ("n1", "n2", "n3")
ANNOUNCE = "5s"
RATE = 4.0


def sockets(overlay: Overlay) -> dict[str, Path]:
    """The administrators' sockets of everybody who renews."""
    nodes = {f"node {name}": overlay.state(name) / "node" for name in NODES}
    others = {"site wiki": overlay.state("site-wiki") / "site/wiki", "user ann": overlay.state("user-ann") / "user/ann"}
    return {who: place / "admin.sock" for who, place in (nodes | others).items()}


async def renewals(overlay: Overlay) -> dict[str, int]:
    """How often each has renewed; raises ``AssertionError`` when a certificate has run out."""
    told = {who: await ask(path, "status") for who, path in sockets(overlay).items()}
    assert all(status["certificate_valid_for_s"] > 0 for status in told.values()), told
    return {who: int(status["renewals"]) for who, status in told.items()}


async def command(overlay: Overlay, *arguments: str) -> dict[str, Any]:
    """One step of the rotation."""
    return await asyncio.to_thread(polder, overlay.state("authority"), "rotate", "issuer", *arguments)


async def live(overlay: Overlay, forwarder: Process, wanted: int, limit: float) -> list[dict[str, Any]]:
    """Read until everybody has renewed ``wanted`` times and the rotation has ended."""
    readers = Readers(str(forwarder.hello["proxy"]), "wiki.test", rate=RATE, sockets=1)
    began, phases = time.monotonic(), []
    async with readers.reading() as seen:

        def phase(name: str) -> None:
            phases.append({"part": "phase", "name": name, "after_s": round(time.monotonic() - began, 1), "pages": seen.pages})

        while True:
            if min((await renewals(overlay)).values()) >= 1:
                break
            await asyncio.sleep(0.5)
        await command(overlay, "--start", "--offline", str(overlay.state("authority") / "offline"), "--announce", ANNOUNCE)
        phase("announced")
        while True:
            if (await command(overlay, "status"))["phase"] == "draining":
                break
            await asyncio.sleep(1.0)
        phase("switched")
        while (status := await command(overlay, "status"))["not_renewed"]:
            assert time.monotonic() - began < limit, status
            await asyncio.sleep(1.0)
        phase("drained")
        await command(overlay, "--finish")
        phase("retired")
        while min((counts := await renewals(overlay)).values()) < wanted:
            assert time.monotonic() - began < limit, counts
            await asyncio.sleep(0.5)
        phase("ended")
    lasted = time.monotonic() - began
    rates = {"pages_per_s": round(seen.pages / lasted, 2), "echoes_per_s": round(seen.echoes / lasted, 2)}
    facts = rates | {"pages": seen.pages, "retried": seen.retried, "failed": seen.failed, "slowest_s": round(seen.slowest, 2)}
    facts |= {"echoes": seen.echoes, "sockets_broken": seen.sockets_broken}
    facts |= {"downloads": seen.downloads, "downloads_broken": seen.downloads_broken}
    return [
        *phases,
        *({"part": "renewals", "who": who, "renewals": count} for who, count in counts.items()),
        {"part": "reading", "seconds": round(lasted, 1), **facts, "troubles": seen.troubles[:5]},
    ]


CLAIMS = (
    Claim(
        "identity-life.failed",
        "pages that failed, after one retry as a browser makes it",
        "== 0",
        Measure("failed", {"part": "reading"}),
    ),
    # Nothing fails where nothing is asked: the reading must have gone on.
    Claim("identity-life.pages", "pages a second, of 4 asked", ">= 3.6", Measure("pages_per_s", {"part": "reading"})),
    Claim("identity-life.echoes", "echoes a second over the one WebSocket", ">= 3", Measure("echoes_per_s", {"part": "reading"})),
    Claim("identity-life.loads", "downloads that came whole", ">= 10", Measure("downloads", {"part": "reading"})),
    Claim("identity-life.sockets", "WebSockets that broke", "== 0", Measure("sockets_broken", {"part": "reading"})),
    Claim("identity-life.downloads", "downloads that broke", "== 0", Measure("downloads_broken", {"part": "reading"})),
    Claim(
        "identity-life.renewals",
        "renewals of whoever renewed least",
        f">= {RENEWALS}",
        Measure("renewals", {"part": "renewals"}, "min"),
    ),
    Claim(
        "identity-life.retired",
        "rotations of the issuer from announcement to retirement",
        "== 1",
        Measure("pages", {"name": "retired"}, "count"),
    ),
)


def run(wanted: int, life: int) -> Result:
    """Build, live, end."""
    for kind in ("NODE", "SITE", "USER", "ADMIN"):
        os.environ[f"POLDER_AUTHORITY__{kind}_LIFE"] = f"{life}s"
    origin = Origin().start()
    with tempfile.TemporaryDirectory(prefix="polder-life-") as directory:
        overlay = Overlay(Path(directory))
        try:
            overlay.found()
            for name in NODES:
                overlay.enrol_node(name)
                overlay.run_node(name)
            overlay.enrol_site("wiki", "wiki.test")
            overlay.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["user:ann"]\n')
            overlay.enrol_user("ann")
            overlay.wait_ring(len(NODES))
            overlay.wait_site("wiki")
            rows = asyncio.run(live(overlay, overlay.connect("ann"), wanted, 20.0 * life))
        finally:
            overlay.close()
            origin.stop()
    parameters = {"life_s": life, "nodes": len(NODES), "pages_per_s": RATE, "announce": ANNOUNCE, "renewals": wanted}
    return Result(
        "identity-life", parameters, rows, CLAIMS, "Three renewals of everybody and a rotation of the issuer under reading"
    )


def main() -> int:
    """Run, print, write; exit status 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    result = run(1 if quick else RENEWALS, LIFE // 2 if quick else LIFE)
    for row in result.rows:
        print(row)
    if not quick:
        results.write(result)
    return int(
        any(not claim["holds"] for claim in result.record()["claims"] if not quick or claim["id"] != "identity-life.renewals")
    )


if __name__ == "__main__":
    sys.exit(main())
