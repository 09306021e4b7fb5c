"""The laboratory's native tools (the wide-area switch, the attackers): one blocking call, in a process of its own."""

from __future__ import annotations

from typing import Any

import msgspec

from polder import _native


def run(tool: str, config: dict[str, Any]) -> dict[str, Any]:
    """Run ``tool`` to its end and return its report.

    Raises ``ValueError`` (the configuration), ``PermissionError`` (not inside a laboratory, or not against that target),
    ``OSError`` (the system). Blocks for as long as the tool runs; signals take effect when it returns, so end the process.
    """
    report = _native.lab(tool, msgspec.msgpack.encode(config))
    return dict(msgspec.msgpack.decode(report)) if report else {}
