"""``make bench`` part ``gre``: what a GRE tunnel of Polder's own endpoint carries. Writes ``bench/results/gre.json``.

One TCP stream from the servlet to the gateway, directly and through the tunnel over either outer family, through the filter of
the ``spoof`` experiment's topology. Both ends, the router and the load share one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import report
from bench.spoof import EDGES, build, end, shut
from polder.engine.facade import BUILD
from polder.lab import links
from polder.lab.results import Claim, Measure, Result, write

PORT = 9999
MIB = 1 << 20
_SINK = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)
print("ready", flush=True)
stream, _ = server.accept()
while stream.recv(1 << 20):
    pass
"""
_SOURCE = """
import socket, sys, time
stream = socket.create_connection((sys.argv[1], int(sys.argv[2])))
piece, began = b"x" * (1 << 18), time.perf_counter()
for _ in range(int(sys.argv[3]) * 4):
    stream.sendall(piece)
stream.shutdown(socket.SHUT_WR)
stream.recv(1)
print(time.perf_counter() - began)
"""


def carry(address: str, mib: int) -> float:
    """Megabits a second of one stream of ``mib`` MiB to ``address`` on the gateway, to its acknowledged end."""
    sink = [*links.enter("gateway"), sys.executable, "-c", _SINK, address, str(PORT)]
    with subprocess.Popen(sink, stdout=subprocess.PIPE, text=True) as far:
        assert far.stdout is not None
        far.stdout.readline()
        source = [*links.enter("servlet"), sys.executable, "-c", _SOURCE, address, str(PORT), str(mib)]
        said = subprocess.run(source, capture_output=True, text=True, check=True).stdout
    return mib * MIB * 8 / float(said) / 1e6


def measure(mib: int, rounds: int) -> list[dict[str, Any]]:
    """One row per path and round; the paths take turns."""
    build()
    rows: list[dict[str, Any]] = []
    # Directly first: the filter lets nothing but tunnels through.
    rows += [{"path": "direct", "round": index, "mbit_s": carry(EDGES[0], 4 * mib)} for index in range(rounds)]
    with tempfile.TemporaryDirectory() as directory:
        shut(Path(directory))
    for index in range(rounds):
        for family in (4, 6):
            with contextlib.ExitStack() as ends:
                reports = [ends.enter_context(end(host, family, "serve")) for host in ("gateway", "servlet")]
                rate = carry(f"fd00:{family}::1", mib)
            cpu = sum(report["cpu_s"] for report in reports) / mib * 1024
            rows.append({"path": f"GRE over IPv{family}", "round": index, "mbit_s": rate, "endpoints_cpu_s_per_gib": cpu})
            print(rows[-1], flush=True)
    return rows


CLAIMS = [
    Claim(
        f"gre-carries-ipv{family}",
        f"Mbit/s of one TCP stream through a tunnel over IPv{family}, median",
        ">= 100",
        Measure("mbit_s", {"path": f"GRE over IPv{family}"}, "median"),
    )
    for family in (4, 6)
]


def main() -> int:
    """Run it; exit status 3 when a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.gre", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less data, nothing recorded")
    quick = parser.parse_args().quick
    mib, rounds = (64, 1) if quick else (512, 5)

    def inside() -> int:
        rows = measure(mib, rounds)
        if not quick:
            parameters = {"mib": mib, "rounds": rounds, "native_build": BUILD}
            write(Result("gre", parameters, rows, CLAIMS, "GRE through Polder's own endpoint"))
        judged = [claim.judge(rows) for claim in CLAIMS]
        print(json.dumps({"claims": judged}), flush=True)
        return 0 if all(each["holds"] for each in judged) else 3

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
