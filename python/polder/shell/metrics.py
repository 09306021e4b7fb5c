"""What a process tells in OpenMetrics: ``Numbers`` by name become an exposition, each with type and help text.

Names have the prefix ``polder_`` and base units; labels are fixed small sets. What the data plane counts brings its meaning along
(``polder.engine.meanings``); what Python counts stands in ``FAMILIES``. A number without a meaning is refused, so that none can be
added without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from polder import __version__
from polder.engine import BUILD, Distribution, meanings
from polder.shell.families import FAMILIES, Family

Number = float | Mapping[str, float] | Distribution
"""A value; values by label; or a histogram's contents."""
Numbers = Mapping[str, Number]

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"
_UNITS = ("seconds", "bytes")


def known() -> dict[str, Family]:
    """Every family that any process of Polder can tell, by name."""
    native = {name: Family(name, kind, text) for name, kind, text in meanings()}
    return native | {family.name: family for family in FAMILIES}


def tells_role(name: str) -> bool:
    """Whether a node's number gives away that it is somebody's servlet."""
    return name.startswith(("gre_", "spread_end_")) or name in _SERVLETS


_SERVLETS = frozenset(
    {
        "dialouts_open",
        "spread_detours_refused",
        "spread_here_packets",
        "spread_over_window",
        "spread_sessions",
        "spread_silent",
        "spread_tunnels",
    }
)


@dataclass(frozen=True)
class Exposition:
    """The page of one process. ``read`` gives the numbers of this moment; ``roles``: also those that tell a role."""

    part: str
    read: Callable[[], Numbers]
    roles: bool

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Body and content type. OpenMetrics, unless ``accept`` asks for Prometheus's older text."""
        encode, content_type = choose_encoder(accept if "text/plain" in accept or "openmetrics" in accept else _OPENMETRICS)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self))
        ProcessCollector(registry=registry)
        return encode(registry), content_type

    def families(self) -> Iterator[Metric]:
        """In the order of the names. Raises ``KeyError`` for a number that has no meaning."""
        yield InfoMetricFamily(
            "polder_build", "Which program this is.", value={"version": __version__, "native": BUILD, "part": self.part}
        )
        meaning = known()
        for name, value in sorted(self.read().items()):
            if self.roles or not tells_role(name):
                yield _family(meaning[name], value)


class _Collector(Collector):
    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    def collect(self) -> Iterator[Metric]:
        return self._exposition.families()


def _family(family: Family, value: Number) -> Metric:
    name = f"polder_{family.name}"
    unit = next((unit for unit in _UNITS if family.name.endswith(f"_{unit}")), "")
    if isinstance(value, Distribution):
        return HistogramMetricFamily(name, family.help, buckets=value.cumulative(), sum_value=value.sum, unit=unit)
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    if not isinstance(value, Mapping):
        return make(name, family.help, value=value, unit=unit)
    metric = make(name, family.help, labels=[family.label], unit=unit)
    for label, number in value.items():
        metric.add_metric([label], number)
    return metric
