"""``make bench``: every measurement in turn. ``--quick`` asks each for its shorter form; names run those only."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

PROGRAMS = {
    "ring": ("bench.ring_hops", "lookup hops, and the ring's five properties under churn"),
    "gre": ("bench.gre", "what a GRE tunnel of Polder's own endpoint carries"),
    "spoof": ("bench.spoof", "spoofed packets at the perimeter"),
    "tunnels": ("bench.tunnels", "what one hop costs: CPU per GiB and per tunnel, memory per idle tunnel"),
    "node-kill": ("bench.node_kill", "nodes die or hang under a steady page load"),
    "rotation": ("bench.rotation", "a download and a WebSocket while servlets rotate every 5 s"),
    "control-stopped": ("bench.control_stopped", "the control plane of a node stands still for ten minutes"),
    "revocation": ("bench.revocation", "a reader with open tunnels on eight nodes is revoked; then the authority goes away"),
    "identity-life": ("bench.identity_life", "three renewals of everybody and a rotation of the issuer under reading"),
    "crash-points": ("bench.crash_points", "SIGKILL of authority and node at a thousand random moments"),
    "upgrade": ("bench.upgrade", "every process is reloaded and upgraded again and again under load"),
    "scan": ("bench.scan", "what an outsider finds: open ports, open relays"),
    "masking": ("bench.masking", "whether users or strangers can tell beacons and servlets from other nodes"),
    "chains": ("bench.chains", "chains of 1 to 10 hops, beside HAProxy, nginx, squid and stunnel (needs scripts/bench-packages)"),
    "hops": ("bench.hops", "time to completion through 1, 4, 7 and 10 nodes (WebSOS, tables I and II)"),
}


def main() -> int:
    """Run them; exit status 1 if one failed, after all have run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *PROGRAMS], help="which; default: all")
    parser.add_argument("--quick", action="store_true", help="the shorter form of each")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.names or PROGRAMS:
        module, what = PROGRAMS[name]
        print(f"== {name}: {what}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", module, *(["--quick"] if arguments.quick else [])]
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
