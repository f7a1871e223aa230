"""Prometheus' configuration and alerts, and Grafana's dashboard: in line with /metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.admin.metrics import DEVICE_MEMORY
from harness.admin import PORT, Admin
from harness.redis_server import RedisClient
from harness.waiting import wait_until
from harness.wire import Pipeline
from harness.workers import StartWorker
from tests.deploy.tools import DEPLOY, load, run

PROMETHEUS = DEPLOY / "prometheus"
SERIES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "gauge": ("",),
}

#: What Prometheus adds to everything that it scrapes.
ADDED = {"instance", "job"}


def panels() -> list[Any]:
    """The dashboard's panels, without the headings."""
    dashboard = json.loads((DEPLOY / "grafana/inpainting.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Where a PromQL expression is from, and the expression."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield panel["title"], expression.replace("$instance", ".*")
    for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for trigger in load("kubernetes/keda/scaledobject.yaml")["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            yield "ScaledObject", trigger["metadata"]["query"]


@pytest.fixture
def families(
    start_worker: StartWorker, client: RedisClient, pipeline: Pipeline
) -> dict[str, Metric]:
    """What a worker exports, by the names of the series."""
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    pipeline.push(b"no json", "long")
    wait_until(lambda: client.llen("inpainting:dead") == 1, "a reason is counted")
    wait_until(lambda: "inpainting_redis_up 1" in admin.ask("/metrics").text, "Redis was asked")
    found: dict[str, Metric] = {"up": Metric("up", "Prometheus' own.", "gauge")}
    for family in text_string_to_metric_families(admin.ask("/metrics").text):
        for ending in SERIES[family.type]:
            found[family.name + ending] = family
    for kind in DEVICE_MEMORY:  # exported where there is a GPU
        name = f"inpainting_device_memory_{kind}_bytes"
        found[name] = Metric(name, "Of a GPU.", "gauge")
    return found


def test_every_query_asks_for_series_and_labels_that_a_worker_exports(
    families: dict[str, Metric],
) -> None:
    asked = 0
    for origin, expression in queries():
        for name, selector in re.findall(
            r"\b((?:inpainting|process|up)\w*)(?:\{(.*?)\})?", _bare(expression)
        ):
            assert name in families, f"{origin}: {name}"
            labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
            known = {label for sample in families[name].samples for label in sample.labels}
            assert labels <= known | ADDED, f"{origin}: {name} has no {labels - known - ADDED}"
            asked += 1
    assert asked > 50


def test_every_series_about_jobs_is_on_the_dashboard(families: dict[str, Metric]) -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    untold = {
        family.name
        for name, family in families.items()
        if name.startswith("inpainting_") and family.name not in shown
    }
    seen_by_others = {"inpainting_processing_jobs", "inpainting_workers"}
    assert untold == {*seen_by_others, "inpainting_serving"}  # "ready" says more than that


def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": expression}
        for number, (_, expression) in enumerate(queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run("promtool", "check", "rules", path)


def test_configuration_and_alerts_are_valid() -> None:
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_come_when_they_should_and_not_otherwise() -> None:
    run("promtool", "test", "rules", "alerts_test.yml", cwd=PROMETHEUS)


def test_every_alert_has_a_test() -> None:
    alerts = {rule["alert"] for rule in load("prometheus/alerts.yml")["groups"][0]["rules"]}
    raised = {
        case["alertname"]
        for test in load("prometheus/alerts_test.yml")["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert raised == alerts


def test_metrics_pass_prometheus_own_check(start_worker: StartWorker, client: RedisClient) -> None:
    admin = Admin(start_worker(ADMIN_PORT=PORT))
    assert run("promtool", "check", "metrics", input=admin.ask("/metrics").text) == ""


def test_panels_have_ids_titles_and_places_of_their_own() -> None:
    dashboard = json.loads((DEPLOY / "grafana/inpainting.json").read_text())
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({panel["title"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(column < 24 for column, _ in cells), panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        ids = [target["refId"] for target in panel["targets"]]
        assert len(set(ids)) == len(ids)


def test_the_dashboard_takes_the_source_and_the_workers_that_are_chosen() -> None:
    dashboard = json.loads((DEPLOY / "grafana/inpainting.json").read_text())
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "instance"]
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


def _bare(expression: str) -> str:
    """An expression without the values of its matchers."""
    return re.sub(r'"[^"]*"', '""', expression)
