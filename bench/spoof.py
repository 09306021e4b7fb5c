"""``make bench`` part ``spoof``: does a spoofed packet pass the perimeter? Writes ``bench/results/spoof.json``.

```text
 attacker ─┐
           isp (the filter, by `polder filter apply`) ── gateway (counts what arrives)
 servlet ──┘
```

The attacker knows the servlet's addresses and, but for the guessing kinds, even its key; it sends every form that the filter must
refuse. Meanwhile the servlet fetches over its GRE tunnel. First a short run without the filter shows that the packets do arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench import report
from polder.lab import links
from polder.lab.results import Claim, Measure, Result, write
from polder.lab.switch import address_record
from polder.perimeter import Pair, Plan, to_json

COUNT = 1_000_000
QUICK = 50_000
CONTROL = 10_000
RATE = 100_000
KEY4, KEY6 = 0x5EC2E701, 0x5EC2E702
EDGES = ("198.19.1.2", "2001:db8:19:1::2")
SERVLET = ("198.18.5.7", "2001:db8:18:5::7")
_ARMS = {
    # host: (device at the ISP, its addresses, the ISP's on that link)
    "attacker": ("198.18.1.1", "2001:db8:18:1::1", "198.18.1.254", "2001:db8:18:1::fe"),
    "servlet": (*SERVLET, "198.18.5.254", "2001:db8:18:5::fe"),
    "gateway": (*EDGES, "198.19.1.1", "2001:db8:19:1::1"),
}
_COUNT = """
table inet count {{
    counter legitimate {{ }}
    counter strange {{ }}
    chain arrive {{
        type filter hook prerouting priority -500; policy accept;
        iifname != "wan" accept
        ip saddr 198.19.1.1 accept comment "what the ISP's router itself says"
        ip6 saddr {{ fe80::/10, 2001:db8:19:1::1 }} accept
        ip6 daddr ff00::/8 accept comment "multicast of the link"
        ip hdrlength 5 ip frag-off & 0x3fff == 0 ip protocol 47 ip saddr {s4} @th,0,64 {gre4} counter name legitimate accept
        ip6 nexthdr 47 ip6 saddr {s6} @th,0,64 {gre6} counter name legitimate accept
        counter name strange
    }}
}}
"""


def build() -> None:
    """Namespaces, links, routes, the counter at the gateway."""
    links.ip(["netns add isp", *(f"netns add {host}" for host in _ARMS)])
    for number, (host, (v4, v6, near4, near6)) in enumerate(_ARMS.items()):
        far, near = f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02"
        links.ip([f"link add wan address {far} netns {host} type veth peer name {host} address {near} netns isp"])
        links.sysctl(host, {"ipv4.conf.all.rp_filter": 0, "ipv4.conf.wan.rp_filter": 0})
        lines = ["link set lo up", f"address add {v4}/24 dev wan", f"address add {v6}/64 dev wan nodad", "link set wan up"]
        # Neighbours are known beforehand: a queue that waits for an answer would hold or lose packets that are counted.
        known = [f"neighbour add {each} lladdr {near} dev wan nud permanent" for each in (near4, near6)]
        links.ip([*lines, *known, f"route add default via {near4}", f"route add ::/0 via {near6}"], host)
        lines = [f"address add {near4}/24 dev {host}", f"address add {near6}/64 dev {host} nodad", f"link set {host} up"]
        known = [f"neighbour add {each} lladdr {far} dev {host} nud permanent" for each in (v4, v6)]
        links.ip([*lines, *known], "isp")
    forward = {"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1, "ipv4.conf.all.rp_filter": 0}
    links.sysctl("isp", forward | {f"ipv4.conf.{host}.rp_filter": 0 for host in _ARMS})
    rules = _COUNT.format(s4=SERVLET[0], s6=SERVLET[1], gre4=hex(0x200086DD << 32 | KEY4), gre6=hex(0x200086DD << 32 | KEY6))
    subprocess.run([*links.enter("gateway"), "nft", "-f", "-"], input=rules, text=True, check=True)


def counter(host: str, table: str, name: str) -> int:
    """Packets that a named counter counted."""
    command = [*links.enter(host), "nft", "-j", "list", "counter", "inet", table, name]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return next(int(entry["counter"]["packets"]) for entry in listed["nftables"] if "counter" in entry)


def settled(host: str, table: str, name: str, wanted: int) -> int:
    """A counter when it has reached ``wanted``, or what it says after ten seconds: the last packets may still be under way."""
    deadline = time.monotonic() + 10
    while (value := counter(host, table, name)) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def spoof(count: int, seed: int) -> dict[str, Any]:
    """Send ``count`` packets; returns the tool's report."""
    pairs = [{"source": address_record(source), "key": key} for source, key in zip(SERVLET, (KEY4, KEY6), strict=True)]
    config = {"pairs": pairs, "targets": [address_record(each) for each in EDGES], "count": count, "rate": RATE, "seed": seed}
    command = [*links.enter("attacker"), sys.executable, "-m", "polder.lab.tool", "spoof"]
    done = subprocess.run(command, input=msgspec.msgpack.encode(config), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def shut(directory: Path) -> None:
    """Apply the filter at the ISP with the product's own command."""
    far = int(time.clock_gettime(time.CLOCK_REALTIME)) + 3600
    plan = Plan("wiki", 1, EDGES, pairs=(Pair(SERVLET[0], KEY4, far), Pair(SERVLET[1], KEY6, far)))
    file = directory / "filter.json"
    file.write_bytes(to_json(plan))
    command = [sys.executable, "-m", "polder.cli.main", "filter", "apply", "wiki", "--plan", str(file), "--rollback-after", "0"]
    subprocess.run([*links.enter("isp"), *command, "--json"], check=True, capture_output=True)


@contextlib.contextmanager
def end(host: str, family: int, work: str) -> Iterator[dict[str, Any]]:
    """One end of the tunnel over outer ``family``; the dictionary is filled with its report at the end."""
    index = 0 if family == 4 else 1
    key = (KEY4, KEY6)[index]
    net = f"fd00:{family}::"
    near, far = (f"{net}2", f"{net}1") if host == "servlet" else (f"{net}1", f"{net}2")
    outer = EDGES[index] if host == "servlet" else SERVLET[index]
    said = {
        "work": work,
        "inner": [f"{near}/128"],
        "local": [(SERVLET if host == "servlet" else EDGES)[index]],
        "peers": [{"outer": outer, "key": key, "inner": [f"{far}/128"]}],
        "address": far if work == "ask" else near,
    }
    command = [*links.enter(host), sys.executable, "-m", "polder.lab.tunnel_end"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    report: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(said) + "\n")
        process.stdin.flush()
        if not process.stdout.readline():
            raise RuntimeError(f"the end of the tunnel on {host} did not start")
        yield report
    finally:
        process.stdin.close()
        report |= json.loads(process.stdout.readline() or "{}")
        process.wait()


def measure(count: int) -> tuple[list[dict[str, Any]], list[Claim]]:
    """Rows and claims of one run."""
    build()
    control = spoof(CONTROL, 1)
    arrived = settled("gateway", "count", "strange", control["packets"])
    rows: list[dict[str, Any]] = [{"phase": "without filter", "packets_sent": control["packets"], "packets_arrived": arrived}]
    print(f"without filter: {arrived} of {control['packets']} spoofed packets arrive", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        shut(Path(directory))
    for family in (4, 6):
        before, refused_before = counter("gateway", "count", "strange"), counter("isp", "polder_wiki", "refused")
        good_before = counter("gateway", "count", "legitimate")
        with end("gateway", family, "serve"), end("servlet", family, "ask") as asked:
            report = spoof(count // 2, family)
        refused = settled("isp", "polder_wiki", "refused", refused_before + report["packets"]) - refused_before
        rows.append(
            {
                "phase": "with filter",
                "tunnel": f"GRE over IPv{family}",
                "packets_sent": report["packets"],
                "packets_refused": refused,
                "packets_arrived": counter("gateway", "count", "strange") - before,
                "packets_per_s": round(report["packets"] / report["seconds"]),
                "tunnel_packets_arrived": counter("gateway", "count", "legitimate") - good_before,
                "tunnel_fetches": asked["asked"],
                "tunnel_fetches_right": asked["right"],
            }
        )
        rows += [
            {"phase": "kinds", "kind": kind, "tunnel": f"GRE over IPv{family}", "packets_of_kind": n}
            for kind, n in report["kinds"].items()
        ]
        print(f"with filter, tunnel over IPv{family}: {rows[-len(report['kinds']) - 1]}", flush=True)
    return rows, _claims(count)


def _claims(count: int) -> list[Claim]:
    shut_phase = {"phase": "with filter"}

    def total(field: str, where: dict[str, str]) -> Measure:
        return Measure(field, where, "sum")

    def ratio(field: str, by: str, where: dict[str, str]) -> Measure:
        return Measure(field, where, "sum", over=Measure(by, where, "sum"))

    return [
        Claim("spoof-sent", "spoofed packets sent at the filter", f">= {count}", total("packets_sent", shut_phase)),
        Claim("spoof-passed", "spoofed packets that passed the filter", "== 0", total("packets_arrived", shut_phase)),
        Claim(
            "spoof-seen",
            "part of them that the filter itself counted as refused",
            "== 1",
            ratio("packets_refused", "packets_sent", shut_phase),
        ),
        Claim(
            "spoof-control",
            "part of them that arrives without the filter",
            ">= 0.999",
            ratio("packets_arrived", "packets_sent", {"phase": "without filter"}),
        ),
        Claim(
            "spoof-tunnel",
            "part of the servlet's fetches that succeed meanwhile",
            "== 1",
            ratio("tunnel_fetches_right", "tunnel_fetches", shut_phase),
        ),
    ]


def main() -> int:
    """Run it; exit status 3 when a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.spoof", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} packets, nothing recorded")
    parser.add_argument("--count", type=int, help="packets; nothing recorded")
    arguments = parser.parse_args()
    count = arguments.count or (QUICK if arguments.quick else COUNT)

    def inside() -> int:
        rows, claims = measure(count)
        judged = [claim.judge(rows) for claim in claims]
        if count == COUNT:
            write(Result("spoof", {"count": count, "rate_per_s": RATE}, rows, claims, "Spoofed packets at the perimeter"))
        print(json.dumps({"rows": rows, "claims": judged}), flush=True)
        return 0 if all(each["holds"] for each in judged) else 3

    return report.enclosed(inside)


if __name__ == "__main__":
    sys.exit(main())
