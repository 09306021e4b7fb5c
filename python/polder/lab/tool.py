"""``python -m polder.lab.tool NAME [FILE]``: run one native tool; report (JSON) on stdout.

Its configuration comes from stdin (MessagePack) or from ``FILE`` (JSON).
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from polder.engine import laboratory


def main() -> int:
    """Exit status: 0 done, 1 the system said no, 2 the configuration or the place was refused (why: on stderr)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # native code does not return to Python before its end
    try:
        report = laboratory.run(sys.argv[1], _config(sys.argv[2:]))
    except (PermissionError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(report), flush=True)
    return 0


def _config(files: list[str]) -> Any:
    return json.loads(Path(files[0]).read_text()) if files else msgspec.msgpack.decode(sys.stdin.buffer.read())


if __name__ == "__main__":
    sys.exit(main())
