"""What pods say of their ends, as API servers print them."""

from datetime import UTC, datetime
from typing import Any

from bitsmith_core.wire import FailureClass
from bitsmith_operator.evidence import losses
from bitsmith_operator.mirror import Seen, refused, status_of


def pod(status: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "gpu-1a2b3c", "creationTimestamp": "2026-01-01T10:00:00Z"},
        "spec": {"nodeName": "node-7"},
        "status": status,
    }


def ended(reason: str, code: int, **more: Any) -> dict[str, Any]:
    return {"terminated": {"reason": reason, "exitCode": code, "finishedAt": "2026-01-01T10:05:00Z", **more}}


def test_a_container_that_took_too_much_memory_is_a_matter_of_resources() -> None:
    status = {
        "phase": "Running",
        "containerStatuses": [
            {"name": "worker", "state": {"running": {"startedAt": "2026-01-01T10:05:02Z"}},
             "lastState": ended("OOMKilled", 137)}
        ],
    }  # fmt: skip
    (loss,) = losses(pod(status))
    assert (loss.failure, loss.code, loss.worker) == (FailureClass.RESOURCE, "oom_killed", "gpu-1a2b3c")
    assert loss.at == datetime(2026, 1, 1, 10, 5, tzinfo=UTC)
    assert loss.evidence == {"pod": "gpu-1a2b3c", "node": "node-7", "reason": "OOMKilled", "exit_code": 137}


def test_a_container_that_ended_otherwise_is_the_infrastructures() -> None:
    status = {"containerStatuses": [{"state": ended("Error", 139, message="segmentation fault")}]}
    (loss,) = losses(pod(status))
    assert (loss.failure, loss.code) == (FailureClass.INFRA, "container_ended")
    assert loss.message == "Its container ended: segmentation fault."


def test_an_evicted_pod_says_why() -> None:
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: ephemeral-storage. ",
        "startTime": "2026-01-01T10:00:10Z",
        "conditions": [{"type": "DisruptionTarget", "lastTransitionTime": "2026-01-01T10:07:00Z"}],
    }
    (loss,) = losses(pod(status))
    assert (loss.failure, loss.code) == (FailureClass.INFRA, "evicted")
    assert loss.message == "Its pod was evicted: The node was low on resource: ephemeral-storage."
    assert loss.at == datetime(2026, 1, 1, 10, 7, tzinfo=UTC)


def test_nothing_is_concluded_of_pods_that_run_or_may_run() -> None:
    for status in (
        {},
        {"phase": "Pending", "reason": "Unschedulable"},
        {"phase": "Unknown", "reason": "NodeLost"},  # its node does not answer; the worker may train on
        {"phase": "Running", "containerStatuses": [{"state": {"running": {}}, "lastState": {}}]},
    ):
        assert list(losses(pod(status))) == []


NOW = datetime(2026, 1, 1, tzinfo=UTC)


def seen(status: str = "running", **more: Any) -> Seen:
    facts: dict[str, Any] = {
        "job_id": "ftjob-1", "status": status, "stage": None, "done": 0, "total": 0, "attempts": 1, "reason_code": None,
        "reason_message": None, "result": None, "has_changed_spec": False, "is_suspended": False,
    }  # fmt: skip
    return Seen(**(facts | more))


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_a_status_says_where_the_job_is() -> None:
    status = status_of(seen(stage="training", done=1, total=3), generation=4, before={}, now=NOW)
    assert (status["phase"], status["stage"], status["progress"]) == ("Running", "training", "33%")
    assert (status["jobId"], status["observedGeneration"]) == ("ftjob-1", 4)
    assert conditions(status)["Running"] == ("True", "Running")
    assert "SpecChanged" not in conditions(status)


def test_a_failure_has_its_reason_in_kubernetes_spelling_and_its_words() -> None:
    failed = seen("failed", reason_code="out_of_memory", reason_message="Too little memory.")
    status = status_of(failed, generation=1, before={}, now=NOW)
    assert conditions(status)["Failed"] == ("True", "OutOfMemory")
    assert [each["message"] for each in status["conditions"] if each["type"] == "Failed"] == ["Too little memory."]


def test_a_condition_keeps_its_time_until_it_turns() -> None:
    before = status_of(seen("queued"), generation=1, before={}, now=NOW)
    later = NOW.replace(hour=5)
    after = status_of(seen("running"), generation=1, before=before, now=later)
    times = {each["type"]: each["lastTransitionTime"] for each in after["conditions"]}
    assert times["Accepted"] == "2026-01-01T00:00:00Z"
    assert times["Running"] == "2026-01-01T05:00:00Z"


def test_a_refusal_is_told_with_its_reason() -> None:
    status = refused("model: Field required", generation=2, before={}, now=NOW)
    assert status["phase"] == "Refused"
    assert conditions(status) == {"Accepted": ("False", "InvalidSpec")}
