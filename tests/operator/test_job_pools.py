"""What rounds make of pools of mode job, with a real Postgres; the cluster is in memory."""

from datetime import UTC, datetime, timedelta
from typing import Any

from bitsmith_core import jobs
from bitsmith_core.wire import Failed, FailureClass

from tests.operator.test_reconcile import Scene, oom_killed, scene

__all__ = ["scene"]  # a fixture


def finish(job: dict[str, Any], kind: str = "Complete", *, at: datetime | None = None) -> None:
    when = (at or datetime.now(UTC)).isoformat()
    job["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": when}]}


def test_each_attempt_has_a_job_of_its_own_and_a_retry_another(scene: Scene) -> None:
    scene.pool(mode="job", maxWorkers=3)
    scene.round()
    assert scene.cluster.jobs == {}
    first, second = scene.submit(2)
    scene.round(3)
    one, two = sorted(scene.cluster.jobs)
    assert scene.cluster.pods == {}

    scene.report(one, two)
    lease = scene.claim(first, one)
    scene.claim(second, two)
    scene.round(3)
    assert len(scene.cluster.jobs) == 2
    assert (scene.pool_status()["workers"], scene.pool_status()["busy"]) == (2, 2)

    with scene.database.transaction() as tx:
        jobs.fail(tx, lease, Failed(failure=FailureClass.YIELD, code="node_left", message="Away."))
        jobs.workers.leave(tx, one)
    finish(scene.cluster.jobs[one])
    scene.round(3)
    assert len(scene.cluster.jobs) == 3
    assert (scene.pool_status()["workers"], scene.pool_status()["wanted"]) == (2, 2)


def test_nothing_that_may_be_at_work_is_ended_when_a_pool_is_made_smaller(scene: Scene) -> None:
    scene.pool(mode="job", maxWorkers=3)
    (job_id, *_) = scene.submit(3)
    scene.round()
    names = sorted(scene.cluster.jobs)
    scene.report(names[0])
    scene.claim(job_id, names[0])
    scene.pool(mode="job", maxWorkers=0)
    scene.round(3)
    assert sorted(scene.cluster.jobs) == names


def test_idle_workers_of_jobs_are_counted_before_more_are_made(scene: Scene) -> None:
    """Their pods start minutes later; until then the job waits on, and is not one more."""
    scene.pool(mode="job", maxWorkers=5)
    scene.submit(1)
    scene.round(2)
    scene.report(*scene.cluster.jobs)
    scene.round(2)
    assert len(scene.cluster.jobs) == 1
    scene.submit(2)
    scene.round(2)
    assert len(scene.cluster.jobs) == 3


def test_jobs_that_finished_long_ago_go_where_the_server_leaves_them(scene: Scene) -> None:
    scene.pool(mode="job", maxWorkers=2)
    scene.submit(2)
    scene.round()
    old, fresh = sorted(scene.cluster.jobs)
    finish(scene.cluster.jobs[old], at=datetime.now(UTC) - timedelta(hours=1))
    finish(scene.cluster.jobs[fresh], "Failed")
    scene.round()
    assert old not in scene.cluster.jobs
    assert fresh in scene.cluster.jobs


def test_every_open_job_of_several_nodes_has_its_service_even_after_a_crash_in_between(scene: Scene) -> None:
    scene.pool(mode="job", nodes=2, maxWorkers=2)
    scene.submit(1)
    scene.round()
    (name,) = scene.cluster.jobs
    scene.cluster.services.clear()  # as if the operator had died before it made it
    scene.restart()
    scene.round(2)
    assert list(scene.cluster.services) == [name]
    (owner,) = scene.cluster.services[name]["metadata"]["ownerReferences"]
    assert owner["uid"] == scene.cluster.jobs[name]["metadata"]["uid"]


def test_an_old_server_is_asked_for_no_field_that_it_would_drop(scene: Scene) -> None:
    scene.cluster.server = (1, 20)
    scene.pool("gang", mode="job", nodes=2, maxWorkers=2)
    scene.submit(1)
    scene.round()
    (condition,) = scene.pool_status("gang")["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "JobRefused")
    assert condition["message"] == (
        "nodes: 2 needs Indexed Jobs, which Kubernetes has from 1.22 on; this server is 1.20."
    )
    assert scene.cluster.jobs == {}

    scene.pool("gang", mode="job", maxWorkers=2)
    scene.round()
    assert len(scene.cluster.jobs) == 1
    (condition,) = scene.pool_status("gang")["conditions"]
    assert condition["status"] == "True"


def test_a_cluster_that_refuses_a_job_is_quoted(scene: Scene) -> None:
    scene.cluster.refusal = "exceeded quota: gpus"
    scene.pool(mode="job", maxWorkers=1)
    scene.submit(1)
    scene.round()
    (condition,) = scene.pool_status()["conditions"]
    assert (condition["reason"], condition["message"]) == ("JobRefused", "exceeded quota: gpus")


def test_pods_of_a_pool_that_was_resident_are_let_go(scene: Scene) -> None:
    scene.pool(minWorkers=1, maxWorkers=1)
    scene.round()
    (name,) = scene.cluster.pods
    scene.report(name)
    scene.pool(mode="job", maxWorkers=1)
    scene.round()
    assert scene.is_draining(name)
    scene.round(2)
    assert scene.cluster.pods == {}


def test_memory_that_ran_out_on_any_node_ends_the_attempt(scene: Scene) -> None:
    scene.pool(mode="job", nodes=2, maxWorkers=1)
    (job_id,) = scene.submit(1)
    scene.round()
    ((name, job),) = scene.cluster.jobs.items()
    scene.report(name)
    scene.claim(job_id, name)
    helper = {"metadata": {**job["spec"]["template"]["metadata"], "name": f"{name}-1-x7k2p"}, "spec": {}}
    helper["metadata"]["creationTimestamp"] = datetime.now(UTC).isoformat()
    oom_killed(helper, datetime.now(UTC))
    scene.cluster.pods[f"{name}-1-x7k2p"] = helper
    scene.round()
    with scene.database.transaction() as tx:
        (attempt,) = jobs.attempts(tx, job_id)
    assert (attempt.outcome, attempt.reason_code) == ("resource", "oom_killed")
