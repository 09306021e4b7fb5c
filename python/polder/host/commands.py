"""Running ``ip`` and ``nft``: arguments from us, text on stdin, no shell; secrets never in argv."""

from __future__ import annotations

import shutil
import subprocess

_LIMIT_S = 20.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class HostError(Exception):
    """The host could not do it: ``why`` in words for the operator, ``retry`` whether the same call may work later."""

    def __init__(self, why: str, *, retry: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.retry = retry


def find(program: str) -> str | None:
    """Path of a program, also where an ordinary user's PATH lacks sbin."""
    return shutil.which(program, path=_PATH)


def run(program: str, *arguments: str, stdin: str | None = None) -> str:
    """What the program prints; raises ``HostError`` with its complaint when it fails."""
    path = find(program)
    if path is None:
        package = {"nft": "nftables", "ip": "iproute2"}.get(program, program)
        raise HostError(f"{program} is not installed: install the package {package}")
    try:
        done = subprocess.run(
            [path, *arguments], input=stdin or "", capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{program} did not end within {_LIMIT_S:.0f} s", retry=True) from error
    if done.returncode:
        raise HostError(f"{program} refused: {_complaint(done.stderr)}")
    return done.stdout


def _complaint(stderr: str) -> str:
    """The first lines without echoed input: nft repeats the line it dislikes, and lines hold keys."""
    said = [
        line for line in stderr.splitlines() if "rror" in line or "RTNETLINK" in line or "denied" in line or "permitted" in line
    ]
    return " / ".join(said[:3])[:300] or f"{len(stderr)} bytes of complaint without a reason"
