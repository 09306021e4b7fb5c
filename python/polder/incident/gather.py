"""Collects what an export holds from the parts that run here, and from the nodes if an operator is enrolled."""

from __future__ import annotations

import json
import platform
import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polder import __version__
from polder.api.admin import ask
from polder.dashboard.source import Source
from polder.dashboard.values import Round, Sample
from polder.incident import report
from polder.incident.peaks import Course, courses
from polder.incident.redact import Redactor
from polder.settings import ConfigError
from polder.settings.identity import IdentityDir

_SPANS = {"ten-minutes": 600, "six-hours": 21_600}
_LINES = 2000
_LARGEST_FILE = 1 << 20
_SETTINGS = ("node.toml", "site.toml", "client.toml", "authority.toml")


async def names(source: Source) -> tuple[set[str], set[str]]:
    """Nodes and people that this machine knows of: what must not be told."""
    nodes: set[str] = set()
    people = {path.name for kind in ("user", "admin") for path in source.state.enrolled(kind)}
    for path in (path for kind in ("node", "site", "user", "admin") for path in source.state.enrolled(kind)):
        try:
            identity = IdentityDir.load(path)
        except ConfigError:
            continue
        nodes |= {member.name for member in identity.members}
        nodes |= {identity.id.name} if identity.id.kind == "node" else set()
    for part, path in source.parts().items():
        try:
            links = (await ask(path / "admin.sock", "links"))["links"] if part != "authority" else []
            status = await ask(path / "admin.sock", "status")
        except (OSError, ValueError):
            continue
        nodes |= {str(link["name"]) for link in links} | set(status.get("successors", ())) | set(status.get("servlets", ()))
    return nodes | {member.name for member in await source.members()}, people


async def collect(source: Source, redactor: Redactor, findings: Iterable[Mapping[str, Any]], now: float) -> dict[str, bytes]:
    """Name in the archive → content, redacted. Silent parts are in it with the reason."""
    look = await source.look()
    files: dict[str, bytes] = {"system.json": _json(_system())}
    seen: list[Course] = []
    talk: Counter[tuple[str, str]] = Counter()
    for part, sample in look.parts.items():
        place = f"parts/{redactor.text(part)}"
        files[f"{place}/status.json"] = _json(redactor.value(_sample(sample)))
        directory = source.parts().get(part)
        if directory is None:
            continue
        files |= {f"{place}/{name}": data for name, data in _settings(directory, redactor).items()}
        plan = directory / "filter.json"
        if plan.exists():
            files[f"{place}/filter.json"] = _json(redactor.value(json.loads(plan.read_bytes())))
        if isinstance(sample, Sample):
            histories, lines = await _past(directory)
            files |= {f"{place}/history-{span}.json": _json(history) for span, history in histories.items()}
            seen += courses(redactor.text(part), histories["ten-minutes"]) if "ten-minutes" in histories else []
            clean = [redactor.line(line) for line in lines]
            files[f"{place}/log.jsonl"] = "".join(f"{line}\n" for line in clean).encode()
            talk.update(_heads(clean))
    for part, past in (await source.pasts()).items():
        place = f"parts/{redactor.text(part)}"
        files[f"{place}/history-ten-minutes.json"] = _json(past)
        seen += courses(redactor.text(part), past)
    wrong = [redactor.value(dict(finding)) for finding in findings]
    files["doctor.json"] = _json(wrong)
    facts = {"made": now, "version": __version__, "revealed": redactor.reveals}
    often = [(count, level, text) for (level, text), count in talk.most_common(15)]
    files["report.html"] = report.page(facts, _states(look, redactor), wrong, often, seen).encode()
    return files


def _sample(sample: Sample | str) -> dict[str, Any]:
    if isinstance(sample, str):
        return {"silent": sample}
    return {
        "at": sample.at,
        "status": dict(sample.facts),
        "counters": dict(sample.counters),
        "links": [dict(x) for x in sample.links],
    }


def _states(look: Round, redactor: Redactor) -> list[tuple[str, str]]:
    return [
        (redactor.text(part), "answers" if isinstance(sample, Sample) else redactor.text(sample))
        for part, sample in look.parts.items()
    ]


def _settings(directory: Path, redactor: Redactor) -> dict[str, bytes]:
    """Configuration files and drop-ins, without secrets."""
    found = {}
    for file in (*(directory / name for name in _SETTINGS), *sorted((directory / "conf.d").glob("*.toml"))):
        if file.is_file() and file.stat().st_size <= _LARGEST_FILE:
            text = file.read_text(encoding="utf-8", errors="replace")
            found[f"config/{file.relative_to(directory)}"] = redactor.settings(text).encode()
    return found


async def _past(directory: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    socket = directory / "admin.sock"
    histories: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    try:
        for span, seconds in _SPANS.items():
            histories[span] = await ask(socket, "history", {"seconds": seconds})
        lines = (await ask(socket, "logs", {"count": _LINES}))["lines"]
    except (OSError, ValueError):
        pass  # the authority keeps no history; a part that just ended has said its status
    return histories, lines


def _heads(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        yield str(record.get("level", "")), str(record.get("text", ""))[:160]


def _system() -> dict[str, Any]:
    """What runs here; not which machine it is."""
    return {
        "polder": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "tls": ssl.OPENSSL_VERSION,
        "load": Path("/proc/loadavg").read_text().split()[:3],
        "memory": Path("/proc/meminfo").read_text().splitlines()[:3],
        "network": Path("/proc/net/snmp").read_text().splitlines(),
        "network_more": Path("/proc/net/netstat").read_text().splitlines(),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
