"""Alerts, rules and the dashboard: right for Prometheus's own tool, and about numbers that exist."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from polder.shell.metrics import known
from tests.support.metrics import promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "polder.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def series() -> set[str]:
    """Every name of a time series that Polder can tell."""
    names = {"polder_build_info"}
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
    for family in known().values():
        names |= {f"polder_{family.name}{suffix}" for suffix in suffixes[family.kind]}
    return names


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel.get("targets", ())]


def named(text: str) -> set[str]:
    """Names of our series in ``text``; those of recorded rules have colons and do not count."""
    return set(re.findall(r"(?<![\w:])polder_\w+(?![\w:])", text))


def test_rules_and_alerts_are_well_formed() -> None:
    promtool("check", "rules", str(PROMETHEUS / "rules.yml"), str(PROMETHEUS / "alerts.yml"))
    promtool("check", "config", str(PROMETHEUS / "prometheus.example.yml"))


def test_alerts_fire_when_they_must_and_only_then() -> None:
    promtool("test", "rules", str(PROMETHEUS / "alerts_test.yml"))


def test_every_alert_is_tested_for_firing_and_for_silence() -> None:
    alerts = re.findall(r"- alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text())
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    assert len(alerts) == len(set(alerts)) >= 15
    for alert in alerts:
        assert f"- name: {alert}\n" in tests
        assert f"alertname: {alert}, exp_alerts: []" in tests


@pytest.mark.parametrize("file", ["rules.yml", "alerts.yml", "alerts_test.yml"])
def test_rules_name_only_numbers_that_exist(file: str) -> None:
    text = "\n".join(line for line in (PROMETHEUS / file).read_text().splitlines() if "exp_annotations" not in line)
    assert named(text) <= series()
    assert named(text)


def test_the_dashboard_names_only_numbers_and_rules_that_exist() -> None:
    text = "\n".join(expressions())
    assert named(text) <= series()
    recorded = set(re.findall(r"record: (\S+)", (PROMETHEUS / "rules.yml").read_text()))
    assert set(re.findall(r"instance:polder_\w+:\w+", text)) <= recorded


def test_the_dashboards_expressions_are_prom_ql(tmp_path: Path) -> None:
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, text in enumerate(expressions()):
        plain = text.replace("$__rate_interval", "5m").replace("$instance", ".*")
        lines += [f"      - record: dashboard:expression:{number}", f"        expr: {json.dumps(plain)}"]
    rules = tmp_path / "dashboard.yml"
    rules.write_text("\n".join(lines) + "\n")
    promtool("check", "rules", str(rules))


def test_the_dashboard_has_the_form_that_grafana_reads() -> None:
    """Grafana itself is not in the distribution; this is its documented JSON model."""
    assert {"title", "uid", "schemaVersion", "templating", "time", "panels"} <= set(DASHBOARD)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert {"id", "type", "title", "gridPos"} <= set(panel)
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS)))
    assert used <= variables


def test_panels_do_not_overlap() -> None:
    boxes = [(p["title"], p["gridPos"]) for p in PANELS]
    for (_, a), (_, b) in combinations(boxes, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"] or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart
    assert all(box["x"] + box["w"] <= 24 for _, box in boxes)
