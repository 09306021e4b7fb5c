"""The exporter: what it sends is OTLP, and a collector that fails costs spans, never more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polder.settings.traces import TraceSettings
from polder.shell.traces import Traces
from polder.snapshot.schema import Span, Tracing
from tests.support.collector import Collector, check
from tests.support.overlay import free_port


def span(number: int = 1, **more: str) -> Span:
    known = {"trace": "1" * 32, "span": f"{number:016x}", "parent": "", "name": "hop", "stage": "", "error": ""}
    return Span(**(known | more), began_us=1_700_000_000_000_000 + number, took_us=5)


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector().start()
    yield running
    running.stop()


async def test_spans_arrive_as_otlp_in_batches(collector: Collector, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    traces = Traces(TraceSettings(endpoint=collector.url, token_file=str(token)), "node", "n1")
    for number in range(1, 1201):
        traces.take(span(number))
    await traces.flush()
    assert collector.faults == []
    assert [each["spanId"] for each in collector.spans] == [f"{number:016x}" for number in range(1, 1201)]
    assert collector.spans[0]["service"] == "polder-node"
    assert collector.authorizations == {"Bearer s3cret"}
    assert (traces.exported, traces.lost) == (1200, 0)


async def test_more_than_may_wait_are_dropped_the_oldest_first_and_counted(collector: Collector) -> None:
    traces = Traces(TraceSettings(endpoint=collector.url, queue=16), "node", "n1")
    for number in range(1, 101):
        traces.take(span(number))
    await traces.flush()
    assert [int(each["spanId"], 16) for each in collector.spans] == list(range(85, 101))
    assert (traces.exported, traces.lost) == (16, 84)


@pytest.mark.parametrize("status", [400, 503, None])
async def test_a_collector_that_fails_or_is_away_costs_the_batch_and_one_log_line(
    collector: Collector, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = status or 200
    url = collector.url if status else f"http://127.0.0.1:{free_port()}/v1/traces"
    traces = Traces(TraceSettings(endpoint=url), "node", "n1")
    for _ in range(3):
        traces.take(span())
        await traces.flush()
    assert (traces.exported, traces.lost) == (0, 3)
    assert len([record for record in caplog.records if record.name == "polder.traces"]) == 1


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert Traces(TraceSettings(), "node", "n1").tracing() is None
    asked = TraceSettings(endpoint="http://127.0.0.1:1/v1/traces", sample=0.25, inbound="honour", to_origin=True)
    assert Traces(asked, "node", "n1").tracing() == Tracing(250_000, True, True)


@pytest.mark.parametrize("endpoint", ["ftp://x/", "127.0.0.1:4318", "http://user:secret@host/", "http://"])
def test_an_endpoint_is_a_plain_url(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="collector"):
        TraceSettings(endpoint=endpoint)


ids = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")


@given(
    st.builds(
        Span,
        trace=st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}"),
        span=ids,
        parent=ids | st.just(""),
        name=st.sampled_from(["access point", "forwarder", "hop", "ask", "deliver"]),
        stage=st.sampled_from(["", "beacon", "servlet", "ring;k=2"]),
        error=st.sampled_from(["", "connection_timeout", "given_up"]),
        began_us=st.integers(0, 2**53),
        took_us=st.integers(0, 2**40),
    )
)
def test_every_span_is_otlp(told: Span) -> None:
    (back,) = check(Traces(TraceSettings(), "node", "n").document([told]))
    assert (back["traceId"], back["spanId"], back.get("parentSpanId", "")) == (told.trace, told.span, told.parent)
    assert int(back["endTimeUnixNano"]) - int(back["startTimeUnixNano"]) == told.took_us * 1000
