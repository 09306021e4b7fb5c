"""Reserved bandwidth: who may ask for it, what may be asked, and what the kernel then has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polder.host.commands import HostError
from polder.host.helper import Rights
from polder.host.messages import FlowCounts, FlowRelease, FlowReserve, LinkShape, RsvpSocket, decode_request, encode

FLOW = FlowReserve("eth1", 1, 17, "198.18.9.9", 5004, (("198.18.0.1", 6000),), 500_000, 32_000, 500_000, 1400)
"""Half a megabyte a second for one sender."""


@pytest.mark.parametrize(
    "request_",
    [RsvpSocket(), LinkShape("eth1", 1_000_000), LinkShape("eth1", None), FLOW, FlowRelease("eth1", 1), FlowCounts("eth1")],
)
def test_only_helpers_that_were_told_so_reserve(request_: object) -> None:
    with pytest.raises(HostError, match="--reserve"):
        Rights(reserve=frozenset()).check(request_)  # type: ignore[arg-type]
    Rights(reserve=frozenset({"eth1"})).check(request_)  # type: ignore[arg-type]
    Rights(reserve=None).check(request_)  # type: ignore[arg-type]
    if not isinstance(request_, RsvpSocket):
        with pytest.raises(HostError, match="--reserve eth1"):
            Rights(reserve=frozenset({"eth2"})).check(request_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "eth1; reboot"},
        {"device": ""},
        {"handle": 0},
        {"handle": 50_001},
        {"protocol": 0},
        {"port": 70_000},
        {"destination": "wiki.test"},
        {"destination": "2001:db8::1"},
        {"senders": (("198.18.0.1", -1),)},
        {"senders": (("198.18.0.1 } ; flush ruleset", 1),)},
        {"rate": 0},
        {"served": 499_999},
        {"bucket": 1 << 40},
        {"max_packet": 0},
        {"senders": (("198.18.0.1", 1),) * 300},
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(changes: dict[str, object]) -> None:
    whole = {field: getattr(FLOW, field) for field in FLOW.__struct_fields__} | changes
    with pytest.raises(ValueError):
        decode_request(msgspec.msgpack.encode({"type": "flow_reserve", **whole}))


@given(st.integers(1, 50_000), st.integers(1, 1 << 40), st.integers(1, 1 << 31), st.integers(0, 65_535))
def test_a_reservation_crosses_the_socket_as_it_was(handle: int, rate: int, bucket: int, port: int) -> None:
    flow = FlowReserve("pld0", handle, 6, "2001:db8::9", port, (("2001:db8::1", port),), rate, bucket, rate, 1500)
    assert decode_request(encode(flow)) == flow


_INSIDE = """
import json, subprocess, sys
from polder.host import shaping
from polder.host.commands import HostError
from polder.host.messages import FlowRelease, FlowReserve, LinkShape
from polder.host.shaping import Shaper
from polder.lab import enclosure, links

def text(command):
    return subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout

def without_nft(work):
    def away(*words, **options):
        raise HostError("away")
    run, shaping.run = shaping.run, away
    try:
        work()
    except HostError as error:
        assert error.why == "away"
    else:
        raise AssertionError("it went well")
    finally:
        shaping.run = run

def main():
    links.ip(["link add va type veth peer name vb", "link set va up", "link set vb up"])
    flow = lambda handle, rate, senders: FlowReserve("va", handle, 17, "198.18.9.9", 5004 + handle, senders, rate, 32_000, rate, 1400)
    shaper, other = Shaper(), Shaper()
    shaper.shape(LinkShape("va", 3_125_000))
    shaper.reserve(flow(1, 500_000, (("198.18.0.1", 6000),)))
    shaper.reserve(flow(2, 250_000, ()))
    shaper.reserve(flow(1, 600_000, (("198.18.0.2", 6000), ("198.18.0.3", 0))))
    classes, rules = text("tc class show dev va"), text("nft list ruleset")
    assert "htb 1:10 parent 1:1 leaf 10: prio 1 rate 4800Kbit" in classes, classes
    assert "htb 1:11 parent 1:1 leaf 11: prio 1 rate 2Mbit" in classes, classes
    assert "198.18.0.1" not in rules and "198.18.0.2" in rules and "198.18.0.3" in rules, rules
    assert rules.count("limit rate over 600000 bytes/second burst 32000 bytes") == 1, rules
    assert sorted(shaper.carried("va").flows) == [1, 2]
    shaper.release(FlowRelease("va", 2))
    shaper.release(FlowRelease("va", 2))
    assert "1:11" not in text("tc class show dev va")
    without_nft(lambda: shaper.reserve(flow(3, 100_000, ())))
    shaper.reserve(flow(3, 100_000, ()))
    assert "htb 1:12 parent 1:1" in text("tc class show dev va"), "what failed half-way stands in nobody's way"
    without_nft(lambda: other.shape(LinkShape("vb", 1_000_000)))
    assert "htb" not in text("tc qdisc show dev vb")
    other.shape(LinkShape("vb", 1_000_000))
    other.clear()
    assert "198.18.0.2" in text("nft list ruleset"), "who gives a link back touches no other"
    Shaper().shape(LinkShape("va", 2_000_000))
    assert "198.18.0.2" not in text("nft list ruleset"), "what a killed process left is gone"
    shaper.clear()
    assert "htb" not in text("tc qdisc show") and not text("nft list ruleset").strip()
    return 0

sys.exit(enclosure.run(main))
"""


@pytest.mark.lab
def test_the_kernel_has_what_was_asked_for_and_nothing_afterwards(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _INSIDE], capture_output=True, text=True, timeout=300, check=False)
    if "NoNamespacesError" in done.stderr:
        pytest.skip("neither root nor user namespaces here")
    assert done.returncode == 0, done.stdout + done.stderr
