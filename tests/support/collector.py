"""A collector of traces: takes OTLP over HTTP in JSON, and checks that it is that."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HEX32, _HEX16, _NANO = re.compile(r"[0-9a-f]{32}\Z"), re.compile(r"[0-9a-f]{16}\Z"), re.compile(r"[0-9]{1,20}\Z")

# opentelemetry-proto, opentelemetry/proto/trace/v1/trace.proto and common.proto, in proto3 JSON: field → check.
_SPAN: dict[str, Any] = {
    "traceId": lambda v: bool(_HEX32.match(v)) and v != "0" * 32,
    "spanId": lambda v: bool(_HEX16.match(v)) and v != "0" * 16,
    "parentSpanId": lambda v: bool(_HEX16.match(v)),
    "name": lambda v: isinstance(v, str) and v != "",
    "kind": lambda v: type(v) is int and 0 <= v <= 5,
    "startTimeUnixNano": lambda v: bool(_NANO.match(v)),
    "endTimeUnixNano": lambda v: bool(_NANO.match(v)),
    "attributes": lambda v: all(_attribute(each) for each in v),
    "status": lambda v: set(v) <= {"code", "message"} and v.get("code", 0) in {0, 1, 2} and isinstance(v.get("message", ""), str),
}
_REQUIRED = {"traceId", "spanId", "name", "startTimeUnixNano", "endTimeUnixNano"}


def _attribute(value: dict[str, Any]) -> bool:
    return (
        set(value) == {"key", "value"}
        and set(value["value"]) == {"stringValue"}
        and isinstance(value["value"]["stringValue"], str)
    )


def check(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans in an ``ExportTraceServiceRequest``, each with ``service`` and ``instance``; fails on anything that is not one."""
    assert set(document) == {"resourceSpans"}
    spans: list[dict[str, Any]] = []
    for resource in document["resourceSpans"]:
        assert set(resource) == {"resource", "scopeSpans"}
        assert all(_attribute(each) for each in resource["resource"]["attributes"])
        who = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
        for scope in resource["scopeSpans"]:
            assert set(scope) == {"scope", "spans"} and scope["scope"]["name"] == "polder"
            for span in scope["spans"]:
                assert _REQUIRED <= set(span) <= set(_SPAN), span
                assert all(_SPAN[name](value) for name, value in span.items()), span
                assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                spans.append({**span, "service": who["service.name"], "instance": who["service.instance.id"]})
    return spans


class Collector:
    """Listens on loopback until ``stop``. ``status``: what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.spans: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.authorizations: set[str | None] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.authorizations.add(self.headers["Authorization"])
                try:
                    assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/json")
                    if collector.status == 200:
                        collector.spans += check(json.loads(body))
                except (AssertionError, KeyError, TypeError, ValueError) as error:
                    collector.faults.append(repr(error))
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> Collector:
        """Begin to listen."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Its spans so far."""
        return [span for span in self.spans if span["traceId"] == trace_id]
