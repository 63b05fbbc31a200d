"""Prometheus itself takes the alerts: each one fires in the situation it is for, and none of them on a good day."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_chart import Object, of_kind

from tests.charts.conftest import Render

pytestmark = pytest.mark.charts

# What a replica of the API exports, minute by minute, in promtool's notation: from + step x how often.
HOURS = "x180"
GOOD_DAY = {
    "bitsmith_database_up": f"1+0{HOURS}",
    'bitsmith_pool_workers_live{pool="default"}': f"2+0{HOURS}",
    'bitsmith_pool_jobs_queued{pool="default"}': f"3+0{HOURS}",
    "bitsmith_queue_oldest_wait_seconds": f"60+0{HOURS}",
    "bitsmith_leases_lost_total": f"5+0{HOURS}",
    'bitsmith_attempts_ended_total{outcome="failed",reason="engine:out_of_memory"}': f"20+0{HOURS}",
    'bitsmith_attempts_ended_total{outcome="succeeded",reason=""}': f"100+1{HOURS}",
    "bitsmith_webhook_overdue_seconds": f"2+0{HOURS}",
    'bitsmith_training_flip_rate{job_id="ftjob-1"}': f"0.01+0{HOURS}",
    'bitsmith_http_requests_total{method="GET",route="/v1/models",status="200"}': f"0+600{HOURS}",
    'bitsmith_http_requests_total{method="GET",route="/v1/models",status="500"}': f"0+6{HOURS}",
}
SITUATIONS = {
    "BitsmithDatabaseDown": {"bitsmith_database_up": f"0+0{HOURS}"},
    "BitsmithDown": {"bitsmith_database_up": "1x10 _x170"},
    # A worker of another pool is no help.
    "BitsmithNoWorkers": {
        'bitsmith_pool_workers_live{pool="small"}': f"0+0{HOURS}",
        'bitsmith_pool_jobs_queued{pool="small"}': f"1+0{HOURS}",
    },
    "BitsmithQueueStuck": {"bitsmith_queue_oldest_wait_seconds": f"0+60{HOURS}"},
    "BitsmithLeasesLost": {"bitsmith_leases_lost_total": f"5+0.1{HOURS}"},
    "BitsmithAttemptsFail": {
        'bitsmith_attempts_ended_total{outcome="failed",reason="engine:out_of_memory"}': f"20+0.1{HOURS}",
        'bitsmith_attempts_ended_total{outcome="failed",reason="engine:internal_error"}': f"0+0.1{HOURS}",
    },
    "BitsmithWebhooksLate": {"bitsmith_webhook_overdue_seconds": f"0+60{HOURS}"},
    # Beside one that learns.
    "BitsmithNothingLearnt": {'bitsmith_training_flip_rate{job_id="ftjob-2"}': f"0+0{HOURS}"},
    "BitsmithRequestsFail": {
        'bitsmith_http_requests_total{method="GET",route="/v1/models",status="500"}': f"0+60{HOURS}"
    },
}
LABELS = {"BitsmithNoWorkers": {"pool": "small"}, "BitsmithNothingLearnt": {"job_id": "ftjob-2"}}


@pytest.fixture
def alerts(render: Render) -> list[Object]:
    (rule,) = of_kind(render("everything"), "PrometheusRule")
    found: list[Object] = rule["spec"]["groups"][0]["rules"]
    return found


@pytest.fixture
def rules(alerts: list[Object], tmp_path: Path) -> Path:
    """As a file that Prometheus loads."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "bitsmith", "rules": alerts}]}))
    return path


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not on PATH; it comes with Prometheus")
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


def series(figures: dict[str, str]) -> list[dict[str, str]]:
    """Of two replicas in our namespace, and of an installation elsewhere that has every trouble there is."""
    named = []
    for name, values in figures.items():
        metric, _, labels = name.removesuffix("}").partition("{")
        for replica in ("api-0", "api-1"):
            own = f'namespace="ft",job="rel-api",instance="{replica}"'
            named.append({"series": f"{metric}{{{','.join(filter(None, (labels, own)))}}}", "values": values})
    for trouble in SITUATIONS.values():
        for name, values in trouble.items():
            metric, _, labels = name.removesuffix("}").partition("{")
            other = 'namespace="other",job="api",instance="api-0"'
            named.append({"series": f"{metric}{{{','.join(filter(None, (labels, other)))}}}", "values": values})
    return list({each["series"]: each for each in named}.values())


def test_prometheus_loads_the_rules(rules: Path) -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", rules)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("situation", ["a good day", *SITUATIONS])
def test_an_alert_fires_in_its_situation_and_no_other_does(
    situation: str, alerts: list[Object], rules: Path, tmp_path: Path
) -> None:
    assert {alert["alert"] for alert in alerts} == set(SITUATIONS)
    expected: list[dict[str, Any]] = []
    for alert in alerts:
        name = alert["alert"]
        fired = {"exp_labels": alert["labels"] | LABELS.get(name, {}), "exp_annotations": alert["annotations"]}
        if name == "BitsmithDown":
            fired["exp_labels"] = {**fired["exp_labels"], "namespace": "ft"}  # absent() tells what it looked for
        expected.append({"eval_time": "2h", "alertname": name, "exp_alerts": [fired] if name == situation else []})
    figures = GOOD_DAY | SITUATIONS.get(situation, {})
    case = {"interval": "1m", "input_series": series(figures), "alert_rule_test": expected}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [case]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
