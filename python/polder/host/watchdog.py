"""``python -m polder.host.watchdog DIRECTORY``: takes the way back of unconfirmed filters when their time has come.

A process of its own session, so that it outlives the shell whose connection the filter may just have cut. It ends by itself
when nothing waits any more.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from polder.host.commands import HostError
from polder.host.filters import FilterKeeper

_LOOK_S = 1.0
"""Longest sleep: another process may confirm or apply meanwhile."""


def spawn(directory: Path) -> None:
    """Start one in the background. More than one does no harm: each step holds the directory's lock."""
    subprocess.Popen(
        [sys.executable, "-m", "polder.host.watchdog", str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def main(directory: Path) -> int:
    """Watch until nothing waits."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper = FilterKeeper(directory)
    while (left := keeper.next_deadline()) is not None:
        if left > 0:
            time.sleep(min(left, _LOOK_S))
            continue
        try:
            keeper.rollback_due()
        except HostError:
            time.sleep(_LOOK_S)  # nft refused: nobody listens here, so try again until it is done
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
