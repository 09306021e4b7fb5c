#!/usr/bin/env python3
"""The import rules of the crates, from `cargo metadata`: exit status 1 and a line per breach."""

import json
import subprocess
import sys
from pathlib import Path

# who may depend on a library that decides how a room works
ONLY = {
    "pyo3": {"polder-py"},
    "rustls": {"polder-tls", "polder-fuzz", "polder-quic", "polder-http", "polder-engine"},
    "aws-lc-rs": {"polder-tls", "polder-spread"},
    "libc": {"polder-sock", "polder-lab"},
}
NEVER = {
    "tokio": {"polder-types", "polder-wire", "polder-plan", "polder-flow", "polder-spread"},
}


def main() -> int:
    """Read the graph, print every breach."""
    out = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version=1", "--locked"],
        check=True,
        capture_output=True,
    ).stdout
    breaches = []
    for package in json.loads(out)["packages"]:
        name = package["name"]
        for dependency in package["dependencies"]:
            if dependency["kind"] == "dev":
                continue
            library = dependency["name"]
            if library in ONLY and name not in ONLY[library]:
                breaches.append(f"{name} depends on {library}; only {', '.join(sorted(ONLY[library]))} may")
            if library in NEVER and name in NEVER[library]:
                breaches.append(f"{name} depends on {library}; a sans-io crate must not")
        root = Path(package["manifest_path"]).parent
        if name != "polder-sock":
            breaches += [
                f"{file}: unsafe outside polder-sock"
                for file in root.glob("src/**/*.rs")
                if "unsafe {" in file.read_text() or "allow(unsafe_code)" in file.read_text()
            ]
    print("\n".join(breaches) if breaches else "crates: import rules kept")
    return bool(breaches)


if __name__ == "__main__":
    sys.exit(main())
