"""``make bench``: the measurements with their peers, in turn. ``--long``: those without peers, and with failures; names run those only.

``--quick`` asks each program for its shorter form, and leaves the recorded results alone: its own go to ``build/bench-quick``. How long
each of them took is printed, and of all with peers recorded (``bench.json``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from polder.lab import results
from polder.lab.results import Claim, Measure, Result


class Program(NamedTuple):
    """What is run, what it shows, and whether it belongs to the long run: it has no peers, or is an experiment with failures."""

    module: str
    what: str
    long: bool = False


PROGRAMS = {
    "tunnels": Program("bench.tunnels", "what one hop costs: CPU per GiB and per tunnel, memory per idle tunnel"),
    "hops": Program("bench.hops", "time to completion through 1, 4, 7 and 10 nodes (WebSOS, tables I and II)"),
    "chains": Program("bench.chains", "chains of 1 to 10 hops, beside HAProxy, nginx, squid and stunnel"),
    "layers": Program("bench.layers", "where a hop's CPU time goes, beside the peers (needs perf)"),
    "requests": Program("bench.requests", "requests per second through one access point, beside nginx, HAProxy and squid"),
    "idle": Program("bench.idle", "memory of 10,000 idle tunnels through one node, beside the peers"),
    "growth": Program("bench.growth", "how latency, CPU and memory grow with connections and nodes"),
    "wide": Program("bench.wide", "pages over a quiet overlay with measured delays, against direct (needs POLDER_DATA)"),
    "keynote-table": Program(
        "bench.keynote_table", "requests with 3 to 7 credentials, with and without KeyNote (BandExSOS, table I)"
    ),
    "pdp": Program("bench.pdp", "reservations that a policy decision point judges, new ones and refreshes", long=True),
    "frauds": Program("bench.frauds", "what frauds cost the desk and the clearing house that refuse them", long=True),
    "spread-relay": Program("bench.spread_relay", "what a relay of datagrams costs per packet, beside a bare forwarder"),
    "spread-session": Program("bench.spread_session", "one stream over eight relays, beside plain quinn and a bare relay"),
    "spread-survival": Program(
        "bench.spread_survival", "copies or forward error correction while dead relays are unnoticed", long=True
    ),
    "spread-forgeries": Program("bench.spread_forgeries", "forged, replayed, bent packets at a relay: none passes", long=True),
    "spread-interruptions": Program(
        "bench.spread_interruptions", "a download through restarts, new keys, other members, other addresses", long=True
    ),
    "spread-latency": Program("bench.spread_latency", "pages over 8 to 80 relays at once (BandExSOS, figure 5)", long=True),
    "spread-failures": Program("bench.spread_failures", "relays die without notice (BandExSOS, figure 6)", long=True),
    "spread-attackers": Program("bench.spread_attackers", "relays are flooded in turn, and chased", long=True),
    "gre": Program("bench.gre", "what a GRE tunnel of Polder's own endpoint carries", long=True),
    "ring": Program("bench.ring_hops", "lookup hops, and the ring's five properties under churn", long=True),
    "spoof": Program("bench.spoof", "spoofed packets at the perimeter", long=True),
    "scan": Program("bench.scan", "what an outsider finds: open ports, open relays", long=True),
    "node-kill": Program("bench.node_kill", "nodes die or hang under a steady page load", long=True),
    "rotation": Program("bench.rotation", "a download and a WebSocket while servlets rotate every 5 s", long=True),
    "revocation": Program(
        "bench.revocation", "a reader with tunnels on eight nodes is revoked; the authority goes away", long=True
    ),
    "identity-life": Program("bench.identity_life", "three renewals of everybody, a rotation of the issuer, readers", long=True),
    "upgrade": Program("bench.upgrade", "every process is reloaded and upgraded again and again under load", long=True),
    "masking": Program("bench.masking", "whether anybody can tell beacons and servlets from other nodes", long=True),
    "control-stopped": Program("bench.control_stopped", "a node's control plane stands still for ten minutes", long=True),
    "crash-points": Program("bench.crash_points", "SIGKILL of authority and node at a thousand moments", long=True),
    "bandex-crashes": Program(
        "bench.bandex_crashes", "SIGKILL of clearing house and policy decision point, on SQLite and PostgreSQL", long=True
    ),
    "soak": Program("bench.soak", "everything at once for half an hour: no leak, no failed request (make soak)", long=True),
    "punishment": Program("bench.punishment", "an access point is attacked in every way while users read", long=True),
    "spread-transport": Program("bench.spread_transport", "one sprayed QUIC connection beside QUIC multipath", long=True),
    "reservation": Program("bench.reservation", "a reserved flow through a filled last hop; how long reserving takes", long=True),
    "olintserv": Program(
        "bench.olintserv",
        "a stream across two filled last hops while nodes die, with and without reservation and spread",
        long=True,
    ),
    "sos": Program("bench.sos", "how likely attacks on nodes deny a user: closed forms beside the real roles", long=True),
}


_CLAIMS = 3
"""Exit status of a program that has measured what does not bear out a claim."""
_STUCK_S = 1800.0
"""A program with peers that takes longer is ended, and the next begins: nobody watches."""
MINUTES, MINUTES_QUICK = 40, 8


def chosen(names: list[str], *, long: bool) -> list[str]:
    """The programs to run: those named, or all of one kind."""
    return names or [name for name, program in PROGRAMS.items() if program.long == long]


def main() -> int:
    """Run them; exit status 1 if one failed, else 3 if a claim does not hold; after all have run."""
    listed = "".join(f"\n  {name:16} {program.what}{' (long)' if program.long else ''}" for name, program in PROGRAMS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=f"{__doc__}{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], help="which; default: those with peers", metavar="NAME")
    parser.add_argument("--long", action="store_true", help="those without peers, and the experiments with failures, instead")
    parser.add_argument("--quick", action="store_true", help="the shorter form of each")
    arguments = parser.parse_args()
    if arguments.quick:
        os.environ.setdefault("POLDER_RESULTS", str(Path("build/bench-quick").resolve()))
    rows = [run(name, quick=arguments.quick) for name in chosen(arguments.names, long=arguments.long)]
    print(f"== all: {sum(row['seconds'] for row in rows) / 60:.1f} minutes", flush=True)
    if not arguments.names and not arguments.long:
        print(f"wrote {results.write(times(rows, quick=arguments.quick))}")
    short = [row["program"] for row in rows if row["status"] == _CLAIMS]
    failed = [row["program"] for row in rows if row["status"] not in (0, _CLAIMS)]
    if short:
        print(f"measured, and a claim does not hold: {', '.join(short)}", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else _CLAIMS if short else 0


def run(name: str, *, quick: bool) -> dict[str, Any]:
    """Run one program; its exit status (124: it was ended) and how long it took."""
    program = PROGRAMS[name]
    print(f"== {name}: {program.what}", flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", program.module, *(["--quick"] if quick else [])]
    try:
        status = subprocess.run(command, check=False, timeout=None if program.long else _STUCK_S).returncode
    except subprocess.TimeoutExpired:
        print(f"{name} did not end within {_STUCK_S / 60:.0f} minutes", file=sys.stderr)
        status = 124
    seconds = round(time.monotonic() - began, 1)
    print(f"== {name}: {seconds:.0f} s", flush=True)
    return {"program": name, "seconds": seconds, "status": status}


def times(rows: list[dict[str, Any]], *, quick: bool) -> Result:
    """How long all programs with peers took."""
    most = 60 * (MINUTES_QUICK if quick else MINUTES)
    told = [
        Claim("bench.time", "seconds that all programs with peers took together", f"< {most}", Measure("seconds", {}, "sum")),
        Claim("bench.whole", "programs that did not end by themselves", "== 0", Measure("status", {"status": 124}, "count")),
    ]
    return Result("bench", {"quick": quick}, rows, told, "How long the measurements with peers take")


if __name__ == "__main__":
    sys.exit(main())
