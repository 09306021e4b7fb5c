"""``make bench`` part ``revocation``: a reader with open tunnels on eight nodes is revoked; then the authority goes away.

Real processes on loopback. Measured from before the revocation is written into the ledger: on each node, when the open tunnel ended and
when the last new handshake was let in. A second reader, who is not revoked, reads on. Afterwards the authority is stopped: each node
must refuse new work once its list is older than ``revocation_max_age``, and go on with what is open. Writes
``bench/results/revocation.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.origin import Origin
from tests.support.overlay import Overlay, until

from polder.api.admin import ask
from polder.api.authority_dir import load_settings, open_ledger
from polder.api.tls import set_identity
from polder.lab import results
from polder.lab.results import Claim, Measure, Result
from polder.model import Kind, SpiffeId
from polder.settings import StateDir
from polder.settings.identity import IdentityDir
from polder.shell.clock import wall
from polder.trust.keys import certificates_to_pem, key_from_der

NODES, QUICK_NODES = 8, 2
MAX_AGE = 20
SITE = "wiki.test"

Tunnel = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reader:
    """A reader without forwarder, as a browser is: TLS with his certificate to each access point."""

    def __init__(self, path: Path) -> None:
        identity = IdentityDir.load(path)
        self.addresses = {member.name: member.address for member in identity.members}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.load_verify_locations(cadata=certificates_to_pem(identity.roots).decode())
        self.context.set_alpn_protocols(["http/1.1"])
        set_identity(self.context, key_from_der(identity.key), identity.chain, path)

    async def open(self, address: str) -> Tunnel:
        """A tunnel to the site; raises ``OSError`` when it is refused."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(host, int(port), ssl=self.context)
                writer.write(f"CONNECT {SITE}:80 HTTP/1.1\r\nHost: {SITE}:80\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, TimeoutError) as error:
            raise ConnectionError("no answer") from error
        if b" 200 " not in head.splitlines()[0]:
            writer.close()
            raise ConnectionError(head.splitlines()[0].decode())
        return reader, writer

    async def opens(self, address: str) -> bool:
        """Whether a new tunnel is to be had."""
        try:
            _, writer = await self.open(address)
        except OSError:
            return False
        writer.close()
        return True


async def carries(tunnel: Tunnel) -> bool:
    """Whether an open tunnel brings a page."""
    reader, writer = tunnel
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {SITE}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            await reader.readexactly(length)
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return False
    return b" 200 " in head


async def watch(reader: Reader, name: str, tunnel: Tunnel, t0: float) -> dict[str, Any]:
    """When the tunnel ended, and when the last new one was had; gives up after 15 s."""
    last, cut, refusals = 0.0, None, 0

    async def end() -> None:
        nonlocal cut
        with contextlib.suppress(OSError):
            await tunnel[0].read()
        cut = time.monotonic() - t0

    ending = asyncio.create_task(end())
    while (cut is None or refusals < 3) and time.monotonic() - t0 < 15:
        began = time.monotonic()
        if await reader.opens(reader.addresses[name]):
            last, refusals = began - t0, 0
        else:
            refusals += 1
        await asyncio.sleep(0.02)
    ending.cancel()
    never = 1e9
    return {
        "node": name,
        "cut_after_s": round(cut if cut is not None else never, 3),
        "last_new_after_s": round(max(last, 0.0), 3),
    }


async def settled(reader: Reader, names: list[str]) -> dict[str, Tunnel]:
    """An open tunnel on every node; tried until each has one."""
    tunnels: dict[str, Tunnel] = {}
    end = time.monotonic() + 120
    while len(tunnels) < len(names):
        for name in names:
            if name not in tunnels:
                with contextlib.suppress(OSError):
                    tunnels[name] = await reader.open(reader.addresses[name])
        assert time.monotonic() < end, f"no tunnel on {set(names) - set(tunnels)}"
        await asyncio.sleep(0.1)
    return tunnels


async def measure(overlay: Overlay, names: list[str]) -> list[dict[str, Any]]:
    """All rows."""
    eve, ann = (Reader(overlay.state(f"user-{name}") / "user" / name) for name in ("eve", "ann"))
    eves, anns = await settled(eve, names), await settled(ann, names)
    state = StateDir(overlay.state("authority"))
    ledger = open_ledger(state, load_settings(state, os.environ))
    t0 = time.monotonic()
    watching = [asyncio.create_task(watch(eve, name, eves[name], t0)) for name in names]
    await asyncio.to_thread(ledger.revoke, SpiffeId(overlay.trust_domain, Kind.USER, "eve"), "", wall())
    told = await ask(state.authority / "admin.sock", "announce", {})
    acknowledged = time.monotonic() - t0
    ledger.close()
    rows = [{"part": "revoked", **(await one)} for one in watching]
    for row in rows:
        row["other_reads_on"] = int(await carries(anns[str(row["node"])]))
    rows.append(
        {
            "part": "told",
            "nodes": told["nodes"],
            "acknowledged": len(told["acknowledged"]),
            "acknowledged_after_s": round(acknowledged, 3),
            "connections_cut": told["connections_cut"],
            "tunnels_cut": told["tunnels_cut"],
        }
    )
    await asyncio.to_thread(overlay.processes[0].stop)
    gone = time.monotonic()

    async def lag(name: str) -> dict[str, Any]:
        while time.monotonic() - gone < 3 * MAX_AGE:
            if not await ann.opens(ann.addresses[name]):
                break
            await asyncio.sleep(0.2)
        after = time.monotonic() - gone
        return {
            "part": "lagging",
            "node": name,
            "refused_after_s": round(after, 1),
            "open_goes_on": int(await carries(anns[name])),
        }

    return rows + list(await asyncio.gather(*(lag(name) for name in names)))


def claims(nodes: int) -> tuple[Claim, ...]:
    """What must hold."""
    revoked, lagging = {"part": "revoked"}, {"part": "lagging"}
    return (
        Claim(
            "revocation.cut",
            "seconds until the last open tunnel of the revoked ended",
            "<= 2",
            Measure("cut_after_s", revoked, "max"),
        ),
        Claim(
            "revocation.new", "seconds after which nobody let the revoked in", "<= 2", Measure("last_new_after_s", revoked, "max")
        ),
        Claim("revocation.nodes", "nodes that acknowledged", f"== {nodes}", Measure("acknowledged", {"part": "told"})),
        Claim(
            "revocation.others",
            "nodes on which another reader reads on",
            f"== {nodes}",
            Measure("other_reads_on", revoked, "sum"),
        ),
        Claim(
            "revocation.lag",
            "seconds until every node that is cut off refuses new work",
            f"<= {MAX_AGE + 5}",
            Measure("refused_after_s", lagging, "max"),
        ),
        Claim(
            "revocation.open",
            "nodes on which what was open went on meanwhile",
            f"== {nodes}",
            Measure("open_goes_on", lagging, "sum"),
        ),
    )


def run(nodes: int) -> Result:
    """Build, measure, end."""
    os.environ["POLDER_AUTHORITY__REVOCATION_REFRESH"] = "1s"
    names = [f"n{number}" for number in range(1, nodes + 1)]
    origin = Origin().start()
    with tempfile.TemporaryDirectory(prefix="polder-revocation-") as directory:
        overlay = Overlay(Path(directory))
        try:
            overlay.found()
            for name in names:
                overlay.enrol_node(name, f'revocation_max_age = "{MAX_AGE}s"')
                overlay.run_node(name)
            overlay.enrol_site("wiki", SITE)
            overlay.run_site("wiki", f'name = "wiki"\norigin = "http://{origin.address}"\nallow = ["anyone"]\n')
            for name in ("eve", "ann"):
                overlay.enrol_user(name)
            until(lambda: all(overlay.node_status(name)["joined"] for name in names), "the ring", patience=300)
            overlay.wait_site("wiki")
            rows = asyncio.run(measure(overlay, names))
        finally:
            overlay.close()
            origin.stop()
    parameters = {"nodes": nodes, "revocation_max_age_s": MAX_AGE, "revocation_refresh_s": 1}
    return Result("revocation", parameters, rows, claims(nodes), "A revoked reader with open tunnels on every node")


def main() -> int:
    """Run, print, write; exit status 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    result = run(QUICK_NODES if quick else NODES)
    for row in result.rows:
        print(row)
    judged = result.record()["claims"]
    if not quick:
        results.write(result)
    return int(not all(claim["holds"] for claim in judged))


if __name__ == "__main__":
    sys.exit(main())
