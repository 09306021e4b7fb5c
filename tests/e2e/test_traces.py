"""The whole tree of one request's trace over real processes, and what nobody else gets to see of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from polder.model import PathMode
from tests.e2e.conftest import NODES, SITES, World
from tests.support.metrics import families, page
from tests.support.overlay import until

Spans = list[dict[str, Any]]

THEIRS = "4bf92f3577b34da6a3ce929d0e0e4736"
"""A trace id that a user's program brings."""
_SLACK = 5_000_000
"""Nanoseconds: begins are read from the wall clock, durations from the steady one."""


def curl(proxy: str, url: str, *more: str) -> str:
    """Answer with its head."""
    command = ["curl", "-sS", "-i", "-m", "30", "-x", f"http://{proxy}", *more, url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def new_traces(world: World, known: set[str], whole: Callable[[Spans], bool]) -> list[Spans]:
    """Traces that began after ``known`` and are ``whole``; waits for the first."""

    def found() -> list[Spans]:
        fresh = {span["traceId"] for span in world.collector.spans} - known
        return [spans for spans in map(world.collector.trace, fresh) if whole(spans)]

    until(lambda: bool(found()), "a whole trace")
    return found()


def whole(spans: Spans) -> bool:
    """Root and delivery have both arrived, and all between."""
    ids = {span["spanId"] for span in spans}
    missing = [span for span in spans if "parentSpanId" in span and span["parentSpanId"] not in ids]
    return not missing and {"forwarder", "deliver"} <= {span["name"] for span in spans}


@pytest.mark.parametrize("mode", list(PathMode))
def test_one_request_is_one_tree_from_forwarder_to_delivery(world: World, mode: PathMode) -> None:
    known = {span["traceId"] for span in world.collector.spans}
    assert "The wiki is up" in curl(world.proxy, f"http://{SITES[mode]}.test/")
    spans = new_traces(world, known, whole)[0]
    by_id = {span["spanId"]: span for span in spans}
    (root,) = [span for span in spans if "parentSpanId" not in span]
    assert (root["name"], root["service"]) == ("forwarder", "polder-forwarder")
    (delivery,) = [span for span in spans if span["name"] == "deliver" and not span["status"]]
    line = [delivery]
    while "parentSpanId" in line[-1]:
        line.append(by_id[line[-1]["parentSpanId"]])
    names = [span["name"] for span in reversed(line)]
    assert names[:3] == ["forwarder", "ask", "access point"]
    assert names[-1] == "deliver"
    assert set(names[3:-1]) <= {"ask", "hop"}
    instances = {span["instance"] for span in line}
    assert instances <= {*NODES, "ann"}
    assert len(instances) >= 3, "the forwarder and at least two nodes"
    for child, parent in pairwise(line):
        assert int(parent["startTimeUnixNano"]) <= int(child["startTimeUnixNano"]) + _SLACK
        assert int(child["endTimeUnixNano"]) <= int(parent["endTimeUnixNano"]) + _SLACK
    stages = {a["value"]["stringValue"].partition(";")[0] for span in line for a in span["attributes"]}
    assert stages <= {"beacon", "servlet", "ring"}


def test_spans_name_no_site_no_user_no_address(world: World) -> None:
    curl(world.proxy, "http://wiki.test/")
    until(lambda: bool(world.collector.spans), "spans")
    for span in world.collector.spans:
        text = " ".join([span["name"], span["status"].get("message", ""), *(str(a["value"]) for a in span["attributes"])])
        assert not [name for name in (*SITES.values(), *NODES, "ann", "eve", "127.0.0.1", ".test") if name in text]
    assert world.collector.faults == []


def test_a_users_own_trace_goes_no_further_and_ours_does_not_come_back(world: World) -> None:
    known = {span["traceId"] for span in world.collector.spans}
    theirs = [f"traceparent: 00-{THEIRS}-00f067aa0ba902b7-01", "tracestate: theirs=1", "baggage: user=ann", "X-Mark: theirs"]
    head = curl(world.proxy, "http://wiki.test/", *(part for field in theirs for part in ("-H", field))).lower()
    for spans in new_traces(world, known, whole):
        assert spans[0]["traceId"] != THEIRS
        assert spans[0]["traceId"] not in head
    assert "trace" not in head.partition("\n\n")[0]
    (fields,) = [fields for _, _, fields in world.origin.requests if fields.get("x-mark") == "theirs"]
    assert not {"traceparent", "tracestate", "baggage"} & {name.lower() for name in fields}


def test_who_does_not_trace_leaves_no_spans_and_numbers_tell_of_those_who_do(world: World) -> None:
    assert all(span["instance"] != "eve" for span in world.collector.spans)
    curl(world.proxy, "http://wiki.test/")
    node = world.overlay.state("n1") / "node" / "metrics.sock"

    def exported() -> bool:
        return families(page(node, "/metrics")[2])["polder_spans_exported"].samples[0].value > 0

    until(exported, "spans of n1")
    told = families(page(node, "/metrics")[2])
    assert told["polder_spans"].samples[0].value >= told["polder_spans_exported"].samples[0].value
    assert told["polder_spans_unexported"].samples[0].value == 0
