"""Dashboards and alerts ask for metrics that the API exports, by labels that they have."""

import json
import re

import pytest
import yaml
from bitsmith_api.metrics import Metrics
from bitsmith_core.db import Database
from prometheus_client.parser import text_string_to_metric_families
from rendered_chart import component, of_kind

from tests.charts.conftest import CHART, ROOT, Render

pytestmark = pytest.mark.charts

ADDED_BY_PROMETHEUS = {"namespace"}
OVERWRITTEN_BY_PROMETHEUS = {"job", "instance"}  # at a scrape, unless told to keep what it found


def expressions() -> dict[str, str]:
    found = {}
    for path in sorted((CHART / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                found[f"{path.name}: {panel['title']} {target['refId']}"] = target["expr"]
    for alert in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text()):
        found[f"alerts.yaml: {alert['alert']}"] = alert["expr"]
    return found


def labels_by_metric(database: Database) -> dict[str, set[str]]:
    """What a scrape of an installation shows, with one request seen and the labels that metrics.py declares."""
    metrics = Metrics(database)
    metrics.observe(method="GET", route="/v1/models", status=200, seconds=0.1)
    text = metrics.render().decode()
    names = {family.name for family in text_string_to_metric_families(text)}
    documented = dict(
        re.findall(r"^\| (`bitsmith_.*?) \| (.*?) \|", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    )
    found = {}
    for cell, labels in documented.items():
        for name in re.findall(r"`(bitsmith_\w+)`", cell):
            assert name.removesuffix("_total") in names, f"docs/observability.md has {name}, the API does not export it"
            found[name] = set(re.findall(r"`(\w+)`", labels))
    return found


def test_every_metric_asked_for_is_exported_with_its_labels(database: Database) -> None:
    exported = labels_by_metric(database)
    asked = expressions()
    assert len(asked) > 20
    assert not [name for name, labels in exported.items() if labels & OVERWRITTEN_BY_PROMETHEUS]
    for place, expression in asked.items():
        names = re.findall(r"(bitsmith_\w+)(?:\{([^}]*)\})?", expression)
        assert names, place
        for name, selector in names:
            base = name.removesuffix("_bucket")
            assert base in exported, f"{place}: nobody exports {name}"
            known = exported[base] | ADDED_BY_PROMETHEUS
            assert set(re.findall(r"(\w+)\s*=~?\"", selector)) <= known, place
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            known = set().union(*(exported[name.removesuffix("_bucket")] for name, _ in names)) | {"le"}
            assert {label.strip() for label in grouped.split(",")} <= known, place


def test_dashboards_and_alerts_arrive_whole(render: Render) -> None:
    objects = render("everything")
    maps = [each for each in of_kind(objects, "ConfigMap") if component(each) == "dashboards"]
    assert {each["metadata"]["labels"]["grafana_dashboard"] for each in maps} == {"1"}
    for each in maps:
        ((name, text),) = each["data"].items()
        assert text == (CHART / "dashboards" / name).read_text()
    assert len(maps) == len(list((CHART / "dashboards").glob("*.json")))
    (rule,) = of_kind(objects, "PrometheusRule")
    alerts = rule["spec"]["groups"][0]["rules"]
    assert all('namespace="ft"' in alert["expr"] for alert in alerts)
    assert not [alert for alert in alerts if "QUEUE_WAIT_SECONDS" in alert["expr"]]


def test_runbooks_that_alerts_name_exist() -> None:
    for alert in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text()):
        for named in re.findall(r"docs/\S+\.md", alert["annotations"].get("description", "")):
            assert (ROOT / named).exists(), named
