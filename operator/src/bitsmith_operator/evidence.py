"""Why a worker's pod ended, from what Kubernetes says of it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bitsmith_core.wire import FailureClass

from bitsmith_operator.objects import WORKER_LABEL

_REASONS = {
    "Evicted": (FailureClass.INFRA, "evicted", "Its pod was evicted"),
    "Preempting": (FailureClass.INFRA, "preempted", "Its pod made room for another"),
    "Preempted": (FailureClass.INFRA, "preempted", "Its pod made room for another"),
    "NodeLost": (FailureClass.INFRA, "node_lost", "Its node was lost"),
    "NodeShutdown": (FailureClass.INFRA, "node_lost", "Its node was shut down"),
    "Terminated": (FailureClass.INFRA, "node_lost", "Its node was shut down"),
    "Shutdown": (FailureClass.INFRA, "node_lost", "Its node was shut down"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What ended a worker. An attempt that it began before `at` cannot go on."""

    worker: str
    at: datetime
    failure: FailureClass
    code: str
    message: str
    evidence: dict[str, Any]


def losses(pod: dict[str, Any]) -> Iterator[Loss]:
    """Ends of the pod, or of its container, that Kubernetes is sure of; an open question is left to the lease."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    name = (metadata.get("labels") or {}).get(WORKER_LABEL, metadata["name"])
    where = {"pod": metadata["name"], "node": (pod.get("spec") or {}).get("nodeName")}
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state"), container.get("lastState")):
            ended = (state or {}).get("terminated")
            if ended is not None and ended.get("finishedAt"):
                yield _of_container(name, ended, where)
    if status.get("phase") == "Failed" and status.get("reason") in _REASONS:
        failure, code, message = _REASONS[status["reason"]]
        yield Loss(
            worker=name,
            at=_failed_at(pod),
            failure=failure,
            code=code,
            message=_sentence(message, status.get("message")),
            evidence=where | {"reason": status["reason"]},
        )


def _of_container(name: str, ended: dict[str, Any], where: dict[str, Any]) -> Loss:
    is_oom = ended.get("reason") == "OOMKilled"
    what = "Its container took more memory than its limit and was killed" if is_oom else "Its container ended"
    return Loss(
        worker=name,
        at=_time(ended["finishedAt"]),
        failure=FailureClass.RESOURCE if is_oom else FailureClass.INFRA,
        code="oom_killed" if is_oom else "container_ended",
        message=_sentence(what, ended.get("message")),
        evidence=where | {"reason": ended.get("reason"), "exit_code": ended.get("exitCode")},
    )


def _failed_at(pod: dict[str, Any]) -> datetime:
    """When the pod failed: its latest change; a pod that failed before its containers ran has no other time."""
    changes = [c["lastTransitionTime"] for c in pod["status"].get("conditions") or [] if c.get("lastTransitionTime")]
    return _time(max([*changes, pod["status"].get("startTime") or pod["metadata"]["creationTimestamp"]]))


def _sentence(what: str, detail: str | None) -> str:
    return f"{what}: {detail.strip().rstrip('.')}." if detail and detail.strip() else f"{what}."


def _time(text: str | datetime) -> datetime:
    return text if isinstance(text, datetime) else datetime.fromisoformat(text)
