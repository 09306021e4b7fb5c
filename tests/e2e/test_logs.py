"""What the processes of a running overlay have logged: well-formed, without a secret, and silent about roles."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.conftest import NODES, SITES, World

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")
_ABOUT_ROLES = re.compile(r"servlet|beacon|appoint|advertis|deliver|withdraw|tunnels? changed|no tunnel", re.IGNORECASE)


def logs(world: World) -> dict[str, list[dict[str, Any]]]:
    """Records by process. Everything on standard error must be one."""
    found: dict[str, list[dict[str, Any]]] = {}
    for process in world.overlay.processes:
        found[process.log.stem] = [json.loads(line) for line in process.log.read_text().splitlines()]
    return found


def secrets(folder: Path) -> set[str]:
    """Lines of private keys and passwords on the disk."""
    found: set[str] = set()
    for file in folder.rglob("*"):
        if file.is_file() and (file.name.endswith("key.pem") or "password" in file.name):
            found |= {line for line in file.read_text().splitlines() if len(line) > 16 and "-----" not in line}
    return found


def test_every_record_has_time_level_room_and_text(world: World) -> None:
    records = [record for each in logs(world).values() for record in each]
    assert records
    for record in records:
        assert _RFC3339.match(record["time"])
        assert record["level"] in {"debug", "info", "warning", "error"}
        assert record["room"] and record["text"]


def test_no_token_and_no_key_is_in_a_log(world: World) -> None:
    text = "\n".join(process.log.read_text() for process in world.overlay.processes)
    keys = secrets(world.overlay.root)
    assert len(world.overlay.tokens) >= 6
    assert len(keys) >= 6
    assert not [token for token in world.overlay.tokens if token in text]
    assert not [key for key in keys if key in text]
    assert "PRIVATE KEY" not in text


def test_no_record_about_a_role_names_who_has_it_or_for_whom(world: World) -> None:
    subprocess.run(
        ["curl", "-sS", "-m", "30", "-x", f"http://{world.proxy}", "http://wiki.test/"], check=True, capture_output=True
    )
    names = {*NODES, *SITES.values()}
    for process, records in logs(world).items():
        for record in records:
            refused = record["room"] == "refused" and "who" in record  # whoever forges is named
            if refused or not _ABOUT_ROLES.search(f"{record['room']} {record['text']}"):
                continue
            told = {word for value in record.values() for word in re.split(r"[^a-z0-9-]+", str(value).lower())}
            assert not names & told, f"{process}: {record}"


def test_users_are_named_only_where_they_were_refused_or_enrolled(world: World) -> None:
    for process, records in logs(world).items():
        if process == "user-ann":
            continue
        for record in records:
            if record["room"] != "refused" and "ann" in re.split(r"[^a-z0-9-]+", json.dumps(record).lower()):
                assert record["text"] in {"enrolled", "renewed"}, f"{process}: {record}"
