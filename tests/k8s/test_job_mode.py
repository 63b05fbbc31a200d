"""A WorkerPool of mode job on a real API server: a Job of the server's own controller for each attempt."""

from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
from bitsmith_operator.runs import INDEXED_SINCE

from tests.k8s.conftest import Scene

pytestmark = pytest.mark.k8s


def kubernetes_jobs(scene: Scene) -> dict[str, Any]:
    batch = kubernetes.client.BatchV1Api(scene.cluster.core.api_client)
    return {job.metadata.name: job for job in batch.list_namespaced_job(scene.namespace).items}


def ends(scene: Scene) -> list[str]:
    """Of its Jobs, those that are over: Complete or Failed."""
    found = [condition for job in kubernetes_jobs(scene).values() for condition in job.status.conditions or []]
    return sorted(condition.type for condition in found if condition.status == "True")


def test_every_attempt_is_a_job_that_ends_by_itself(scene: Scene, tmp_path: Path) -> None:
    scene.platform.scheduler()
    scene.operator()
    scene.apply("WorkerPool", "batch", {"mode": "job", "maxWorkers": 2})
    gate = tmp_path / "gate"
    with scene.kubelet() as kubelet:
        for name in ("one", "two"):
            scene.apply("FineTuneJob", name, scene.request(act="wait", gate=str(gate)))
        for name in ("one", "two"):
            scene.until_phase(name, "Running")
        assert len(kubernetes_jobs(scene)) == 2
        first, second = scene.job_ids()
        lost = scene.platform.attempts(first)[0].worker
        (pod,) = (name for name in kubelet.workers if name.startswith(lost))
        kubelet.workers[pod].kill()  # its node is gone, say: the Job does not try again, the platform does
        scene.until(lambda: len(scene.platform.attempts(first)) == 2, "another attempt")
        gate.touch()
        for name in ("one", "two"):
            scene.until_phase(name, "Succeeded")
        scene.until(lambda: ends(scene) == ["Complete", "Complete", "Failed"], "the end of all Jobs")

    assert scene.platform.outcomes(first) == ["infra", "succeeded"]
    assert scene.platform.outcomes(second) == ["succeeded"]
    workers = {attempt.worker for job_id in (first, second) for attempt in scene.platform.attempts(job_id)}
    assert workers == set(kubernetes_jobs(scene)), "every Job made one attempt"
    scene.until(lambda: scene.status("workerpools", "batch")["workers"] == 0, "a pool without workers")


def test_jobs_go_with_their_pool(scene: Scene) -> None:
    scene.operator()
    scene.apply("WorkerPool", "batch", {"mode": "job", "maxWorkers": 1})
    scene.apply("FineTuneJob", "one", scene.request())
    scene.until(lambda: len(kubernetes_jobs(scene)) == 1, "a Job")
    scene.cluster("delete", "workerpool", "batch", "-n", scene.namespace)
    scene.until(lambda: kubernetes_jobs(scene) == {}, "no Job")
    scene.until(lambda: scene.cluster.pods(scene.namespace) == {}, "no pod")


def test_several_nodes_are_an_indexed_job_where_the_server_has_them_and_refused_elsewhere(scene: Scene) -> None:
    version = kubernetes.client.VersionApi(scene.cluster.core.api_client).get_code()
    scene.operator()
    scene.apply("WorkerPool", "gang", {"mode": "job", "nodes": 2, "maxWorkers": 1})
    scene.apply("FineTuneJob", "one", scene.request())
    if (int(version.major), int(version.minor.rstrip("+"))) < INDEXED_SINCE:
        scene.until(lambda: bool(scene.status("workerpools", "gang").get("conditions")), "a condition")
        (condition,) = scene.status("workerpools", "gang")["conditions"]
        assert (condition["status"], condition["reason"]) == ("False", "JobRefused")
        assert "which Kubernetes has from 1.22 on" in condition["message"]
        assert kubernetes_jobs(scene) == {}
    else:
        scene.until(lambda: len(kubernetes_jobs(scene)) == 1, "a Job")
        ((name, job),) = kubernetes_jobs(scene).items()
        assert (job.spec.completion_mode, job.spec.completions) == ("Indexed", 2)
        scene.until(lambda: len(scene.cluster.pods(scene.namespace)) == 2, "two pods")
        services = scene.cluster.core.list_namespaced_service(scene.namespace).items
        assert [service.metadata.name for service in services] == [name]
