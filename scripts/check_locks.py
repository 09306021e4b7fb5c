"""``make lint``: what the lock files say about where everything comes from, without asking anybody.

Every Rust package comes from crates.io with a checksum, under a licence that ``deny.toml`` allows, and is none that it bans; every
Python package is pinned with hashes. Known weaknesses change daily and need the network: ``make audit`` asks ``cargo deny`` and
``pip-audit`` where they are installed (building ``cargo deny`` takes longer than the whole of the tests).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
LEAST = {"h2": (0, 4, 16), "quinn-proto": (0, 11, 15), "rustls": (0, 23, 45)}


def rust() -> list[str]:
    """What is wrong with ``Cargo.lock``."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    wrong = []
    for package in lock:
        name = f"{package['name']} {package['version']}"
        if package.get("source", REGISTRY) != REGISTRY:
            wrong.append(f"{name} comes from {package['source']}")
        if "source" in package and len(package.get("checksum", "")) != 64:
            wrong.append(f"{name} has no checksum")
        if package["name"] in rules["bans"]["deny"]:
            wrong.append(f"{name} is banned")
        least = LEAST.get(package["name"])
        if least and tuple(map(int, package["version"].split("+")[0].split("."))) < least:
            wrong.append(f"{name} is older than {least}, which mends known holes")
    return wrong + _licences(set(rules["licenses"]["allow"]))


def _licences(allowed: set[str]) -> list[str]:
    """Of what is built on this platform; that is there already."""
    about = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    host = next(line.removeprefix("host: ") for line in about.splitlines() if line.startswith("host: "))
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    wrong = []
    for package in json.loads(told)["packages"]:
        # An SPDX expression: one side of each OR is enough, every side of an AND is needed.
        text = (package["license"] or "").replace("/", " OR ").replace("(", " ").replace(")", " ")
        choices = [set(re.split(r"\s+AND\s+", choice.strip())) for choice in re.split(r"\s+OR\s+", text)]
        if not any(choice <= allowed for choice in choices):
            wrong.append(f"{package['name']} {package['version']}: licence {package['license']!r}")
    return wrong


def python() -> list[str]:
    """What is wrong with ``requirements.lock``."""
    text = (ROOT / "requirements.lock").read_text()
    names = re.findall(r"^([\w.\[\]-]+)==", text, re.M)
    pinned = re.findall(r"^([\w.\[\]-]+)==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M)
    return [f"{name} is pinned without hashes" for name in sorted(set(names) - set(pinned))] or (
        [] if names else ["nothing is pinned"]
    )


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    wrong = rust() + python()
    print("\n".join(wrong) if wrong else "locks: sources, checksums, licences and hashes kept")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
