"""The two halves of the schema have the same fields, compared name by name."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from polder.snapshot import schema

TYPES = Path(__file__).parents[2] / "crates" / "types" / "src"
SOURCE = "\n".join(path.read_text() for path in sorted(TYPES.glob("*.rs")))
STRUCTS = [
    "Snapshot", "IdentityMaterial", "Revocations", "Peer", "Site", "RingRoute", "BeaconEntry", "ServletEntry", "Forwarder",
    "Limits", "EngineConfig", "Tell", "Told", "Tracing", "Spread", "SpreadEpoch", "SpreadMembers",
]  # fmt: skip


def block(opening: str) -> str:
    """The body between the braces that follow ``opening``."""
    start = SOURCE.index(opening + " {") + len(opening) + 2
    depth, end = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(SOURCE[end], 0)
        end += 1
    return SOURCE[start : end - 1]


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_have_the_same_fields(name: str) -> None:
    rust = set(re.findall(r"^    pub (\w+):", block(f"pub struct {name}"), re.M))
    assert rust == {field.name for field in msgspec.structs.fields(getattr(schema, name))}


def test_events_have_the_same_kinds_and_fields() -> None:
    body = block("pub enum Event")
    kinds = dict(re.findall(r"^    (\w+) \{\n(.*?)^    \},", body, re.M | re.S))
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower(): fields for kind, fields in kinds.items()}
    assert set(kinds) == set(schema.EVENT_KINDS)
    for kind, fields in kinds.items():
        struct = schema.EVENT_KINDS[kind]
        assert set(re.findall(r"^        (\w+):", fields, re.M)) == {field.name for field in msgspec.structs.fields(struct)}


def test_both_name_the_same_version() -> None:
    found = re.search(r"pub const SCHEMA: u32 = (\d+);", SOURCE)
    assert found and int(found[1]) == schema.SCHEMA
