"""What every process of a running overlay tells its operator: complete, well-formed, and without a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polder.engine import meanings
from polder.shell.families import FAMILIES
from polder.shell.metrics import known, tells_role
from tests.e2e.conftest import NODES, SITES, World
from tests.support.metrics import families, page, promtool


def sockets(world: World) -> dict[str, Path]:
    """The metrics socket of each part."""
    state = world.overlay.state
    return {
        "node": state("n1") / "node" / "metrics.sock",
        "site": state("site-wiki") / "site" / "wiki" / "metrics.sock",
        "forwarder": state("user-ann") / "user" / "ann" / "metrics.sock",
        "authority": state("authority") / "authority" / "metrics.sock",
    }


ELSEWHERE = ("gre_", "clearing_", "portal_", "rsvp_", "pdp_", "desk_", "keynote_")
"""Told where there is a GRE endpoint, and by the processes of BandEx, whose tests read their pages (``tests/clearing``,
``tests/rsvpd``, ``tests/pdp``)."""


@pytest.mark.parametrize("part", ["node", "site", "forwarder", "authority"])
def test_every_process_is_alive_ready_and_well_formed(world: World, part: str) -> None:
    socket = sockets(world)[part]
    assert page(socket, "/livez")[0] == 200
    status, kind, body = page(socket, "/readyz")
    assert (status, kind, json.loads(body)["ready"]) == (200, "application/json", True), body
    told = families(page(socket, "/metrics")[2])
    assert told["polder_build"].samples[0].labels["part"] == part
    assert all(name.startswith(("polder_", "process_")) for name in told)
    assert told["polder_certificate_expiry_timestamp_seconds"].samples[0].value > 1e9
    assert told["polder_ready"].samples[0].value == 1
    older = page(socket, "/metrics", Accept="text/plain;version=0.0.4")
    assert older[1] == "text/plain"
    promtool("check", "metrics", stdin=older[2])


def test_everything_that_native_code_counts_is_told_with_its_type_and_help(world: World) -> None:
    told = families(page(sockets(world)["node"], "/metrics")[2])
    for name, kind, text in meanings():
        if name.startswith(ELSEWHERE):
            continue
        family = told[f"polder_{name}"]
        assert (family.type, family.documentation) == (kind, text)
        assert text.endswith(".")


def test_every_family_that_has_a_meaning_is_told_by_somebody(world: World) -> None:
    told = {name for socket in sockets(world).values() for name in families(page(socket, "/metrics")[2])}
    # Told only where there is a limit or a helper.
    sometimes = {"memory_limit_bytes", "host_helper_up"}
    missing = (
        {name for name in known() if not name.startswith(ELSEWHERE)} - sometimes - {name.removeprefix("polder_") for name in told}
    )
    assert not missing
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_no_page_names_anybody_or_tells_a_role_per_site(world: World) -> None:
    names = {*NODES, *SITES.values(), "ann", "eve", "staff", "127.0.0.1", "overlay.test"}
    for socket in sockets(world).values():
        for path in ("/metrics", "/readyz", "/livez"):
            text = page(socket, path)[2]
            values = (
                {value for family in families(text).values() for s in family.samples for value in s.labels.values()}
                if (path == "/metrics")
                else {text}
            )
            assert not {name for name in names for value in values if name in value}, path


def test_what_tells_a_role_is_for_the_owner_alone() -> None:
    assert {name for name, _, _ in meanings() if tells_role(name)} >= {
        "dialouts_open", "gre_sent_packets", "spread_sessions", "spread_tunnels", "spread_here_packets", "spread_end_datagrams_in",
        "spread_over_window", "spread_silent", "spread_detours_refused", "spread_end_detoured_in",
    }  # fmt: skip
