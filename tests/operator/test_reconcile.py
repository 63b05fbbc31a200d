"""What rounds make of objects and pods, with a real Postgres; the cluster is in memory. tests/k8s has a real one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_operator.reconcile import Reconciler
from bitsmith_operator.settings import OperatorSettings, PodDefaults
from sqlalchemy import text
from toy_cluster import ToyCluster

from tests.conftest import add_file

TTL = timedelta(seconds=90)


class Scene:
    def __init__(self, database: Database, **settings: Any) -> None:
        self.database, self.cluster = database, ToyCluster()
        given = {"namespaces": ("ft",), "pods": PodDefaults(image="worker:1"), "gone_after_s": 0.0, **settings}
        self.settings = OperatorSettings.model_validate(given)
        self.restart()
        with database.transaction() as tx:
            held_out = add_file(tx, "validation.jsonl")
            self.request = {"model": "hf:org/tiny", "training_file": add_file(tx), "validation_file": held_out}

    def restart(self) -> None:
        """The process is another one: it remembers nothing."""
        self.operator = Reconciler(self.database, self.cluster, self.settings)

    def round(self, times: int = 1) -> None:
        for _ in range(times):
            self.operator.round("ft")

    def apply(self, name: str = "one", **spec: Any) -> None:
        self.cluster.apply("FineTuneJob", name, {**self.request, **spec})

    def pool(self, name: str = "gpu", **spec: Any) -> None:
        self.cluster.apply("WorkerPool", name, {"idleSeconds": 0, **spec})

    def status(self, name: str = "one") -> dict[str, Any]:
        status: dict[str, Any] = self.cluster.objects["finetunejobs"][name]["status"]
        return status

    def pool_status(self, name: str = "gpu") -> dict[str, Any]:
        status: dict[str, Any] = self.cluster.objects["workerpools"][name]["status"]
        return status

    def conditions(self, name: str = "one") -> dict[str, tuple[str, str]]:
        return {each["type"]: (each["reason"], each["message"]) for each in self.status(name)["conditions"]}

    def all_jobs(self) -> list[jobs.Job]:
        with self.database.transaction() as tx:
            ids = tx.execute(text("SELECT id FROM jobs ORDER BY created_at")).scalars().all()
            return [jobs.get(tx, JobId(each)) for each in ids]

    def job(self) -> jobs.Job:
        (job,) = self.all_jobs()
        return job

    def submit(self, count: int, *, pool: str = "default") -> list[JobId]:
        """By somebody else, such as the API."""
        spec = JobSpec.model_validate(
            {**self.request, "method": {"type": "qsft", "qsft": {"resources": {"pool": pool}}}}
        )
        with self.database.transaction() as tx:
            return [jobs.submit(tx, spec, project=DEFAULT_PROJECT).id for _ in range(count)]

    def report(self, *names: str, pool: str = "default") -> None:
        with self.database.transaction() as tx:
            for name in names:
                jobs.workers.report(tx, name=name, device="cpu", local_models=[], pool=pool)

    def claim(self, job_id: JobId, worker: str, *, pool: str = "default") -> jobs.Lease:
        with self.database.transaction() as tx:
            lease = jobs.claim(tx, job_id, worker=worker, ttl=TTL, pool=pool)
        assert lease is not None
        return lease

    def is_draining(self, name: str) -> bool:
        with self.database.transaction() as tx:
            return jobs.workers.is_draining(tx, name)


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


def test_an_object_is_submitted_once_however_often_and_by_however_many_it_is_seen(scene: Scene) -> None:
    scene.apply()
    scene.round(3)
    scene.restart()
    scene.round()
    assert scene.status()["jobId"] == scene.job().id
    assert scene.status()["phase"] == "Queued"
    assert scene.job().submitted_by == "k8s:ft/one"
    assert len(scene.cluster.writes) == 1  # nothing changed, nothing was written


def test_an_object_of_the_same_name_is_another_job(scene: Scene) -> None:
    scene.apply()
    scene.round()
    del scene.cluster.objects["finetunejobs"]["one"]
    scene.apply()
    scene.round()
    assert [job.status for job in scene.all_jobs()] == ["cancelled", "queued"]


def test_a_suspended_object_waits_and_goes_on(scene: Scene) -> None:
    scene.apply(suspend=True)
    scene.round()
    assert (scene.job().status, scene.status()["phase"]) == ("paused", "Suspended")
    scene.apply()  # the line is gone
    scene.round()
    assert (scene.job().status, scene.status()["phase"]) == ("queued", "Queued")


def test_a_pause_by_somebody_else_stays_unless_the_object_says_otherwise(scene: Scene) -> None:
    scene.apply()
    scene.round()
    with scene.database.transaction() as tx:
        jobs.pause(tx, scene.job().id)
    scene.round()
    assert scene.job().status == "paused"
    scene.apply(suspend=False)
    scene.round()
    assert scene.job().status == "queued"


def test_a_priority_follows_the_object(scene: Scene) -> None:
    scene.apply(priority=3)
    scene.round()
    scene.apply(priority=9)
    scene.round()
    assert scene.job().priority == 9


def test_a_deleted_object_cancels_its_job_unless_it_said_orphan(scene: Scene) -> None:
    scene.apply("one")
    scene.apply("two", deletionPolicy="Orphan")
    scene.apply("three")
    scene.round()
    scene.apply("three", deletionPolicy="Orphan")  # it may say so later, too
    scene.round()
    scene.cluster.objects["finetunejobs"].clear()
    scene.round()
    assert [job.status for job in scene.all_jobs()] == ["cancelled", "queued", "queued"]


def test_objects_that_went_while_nobody_looked_count_as_deleted(scene: Scene) -> None:
    scene.apply()
    scene.round()
    scene.cluster.objects["finetunejobs"].clear()
    scene.restart()
    scene.round(2)
    assert scene.job().status == "cancelled"


def test_when_the_kind_goes_no_job_is_cancelled(database: Database) -> None:
    """Kubernetes empties a kind before it removes it."""
    scene = Scene(database, gone_after_s=30.0)
    scene.apply()
    scene.round()
    scene.cluster.objects["finetunejobs"].clear()
    scene.round(2)
    del scene.cluster.objects["finetunejobs"]
    scene.round(2)
    assert scene.job().status == "queued"


def test_objects_of_another_namespace_are_left_alone(scene: Scene) -> None:
    scene.apply()
    scene.round()
    scene.operator.round("other")
    assert scene.job().status == "queued"


def test_a_changed_spec_changes_nothing_and_says_so(scene: Scene) -> None:
    scene.apply()
    scene.round()
    for change in ({"seed": 7}, {"method": {"type": "magic"}}):
        scene.apply(**change)
        scene.round()
        assert scene.job().spec["seed"] == 0
        assert "make another object" in scene.conditions()["SpecChanged"][1].lower()
        assert scene.status()["jobId"] == scene.job().id
    scene.apply()
    scene.round()
    assert "SpecChanged" not in scene.conditions()


def test_what_cannot_be_a_job_says_why_and_becomes_one_when_it_is_mended(scene: Scene) -> None:
    scene.apply(method={"type": "qsft", "qsft": {"training": {"epochs": -1}}})
    scene.round()
    assert scene.status()["phase"] == "Refused"
    reason, message = scene.conditions()["Accepted"]
    assert reason == "InvalidSpec"
    assert "method.qsft.training.epochs" in message
    assert scene.all_jobs() == []
    scene.apply()
    scene.round()
    assert scene.status()["phase"] == "Queued"


def test_a_file_that_does_not_exist_is_named(scene: Scene) -> None:
    scene.apply(training_file="file-06gvuiu6u1ubrcc88lmq39veek")
    scene.round()
    assert "file-06gvuiu6u1ubrcc88lmq39veek" in scene.conditions()["Accepted"][1]


def test_a_project_that_is_full_makes_objects_wait(database: Database) -> None:
    scene = Scene(database, max_open_jobs=1)
    scene.apply("one")
    scene.apply("two")
    scene.round()
    assert scene.conditions("two")["Accepted"][0] == "QuotaExceeded"
    with database.transaction() as tx:
        jobs.cancel(tx, scene.job().id)
    scene.round()
    assert scene.status("two")["phase"] == "Queued"


def test_an_object_goes_some_time_after_its_job_and_the_job_stays(scene: Scene) -> None:
    scene.apply(ttlSecondsAfterFinished=0)
    scene.round()
    with scene.database.transaction() as tx:
        jobs.cancel(tx, scene.job().id)
    scene.round(2)
    assert scene.cluster.objects["finetunejobs"] == {}
    assert scene.job().status == "cancelled"


def test_a_pool_grows_with_what_waits_and_shrinks_when_its_workers_are_idle(scene: Scene) -> None:
    scene.pool(maxWorkers=3)
    scene.round()
    assert scene.cluster.pods == {}
    first, *_ = scene.submit(5)
    scene.round()
    names = sorted(scene.cluster.pods)
    assert len(names) == 3
    scene.report(*names)
    scene.claim(first, names[1])
    with scene.database.transaction() as tx:
        for job in scene.all_jobs():
            if job.status == JobStatus.QUEUED:
                jobs.cancel(tx, job.id)
    scene.round()
    assert [scene.is_draining(name) for name in names] == [True, False, True]
    scene.round()
    assert sorted(scene.cluster.pods) == [names[1]]
    scene.round(3)
    assert sorted(scene.cluster.pods) == [names[1]]
    assert (scene.pool_status()["workers"], scene.pool_status()["busy"]) == (1, 1)


def test_workers_that_a_pool_does_not_own_take_their_part_of_the_work(scene: Scene) -> None:
    scene.pool(maxWorkers=9)
    scene.report("elsewhere-1", "elsewhere-2")
    scene.submit(3)
    scene.round()
    assert len(scene.cluster.pods) == 1


def test_no_more_workers_come_than_a_project_may_have_jobs_at_once(scene: Scene) -> None:
    with scene.database.transaction() as tx:
        tx.execute(text("UPDATE projects SET limits = '{\"running_jobs\": 2}'"))
    scene.pool(maxWorkers=9)
    scene.submit(5)
    scene.round()
    assert len(scene.cluster.pods) == 2


def test_a_worker_whose_lease_ran_out_is_not_taken_for_idle(scene: Scene) -> None:
    """After an outage of Postgres all leases have run out, and all workers train on."""
    scene.pool(maxWorkers=1)
    (job_id,) = scene.submit(1)
    scene.round()
    (name,) = scene.cluster.pods
    scene.report(name)
    scene.claim(job_id, name)
    with scene.database.transaction() as tx:
        tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 minute'"))
        tx.execute(text("UPDATE workers SET seen_at = now() - interval '1 minute'"))
    scene.pool(maxWorkers=0)
    scene.round(3)
    assert list(scene.cluster.pods) == [name]


def test_a_cluster_that_refuses_a_pod_is_quoted(scene: Scene) -> None:
    scene.cluster.refusal = "exceeded quota: gpus"
    scene.pool(minWorkers=1)
    scene.round()
    (condition,) = scene.pool_status()["conditions"]
    assert (condition["status"], condition["reason"], condition["message"]) == (
        "False", "PodRefused", "exceeded quota: gpus",
    )  # fmt: skip


def test_a_pool_that_contradicts_itself_says_so(scene: Scene) -> None:
    scene.pool(minWorkers=2, maxWorkers=1)
    scene.round()
    (condition,) = scene.pool_status()["conditions"]
    assert "minWorkers 2 is more than maxWorkers 1" in condition["message"]


def oom_killed(pod: dict[str, Any], at: datetime) -> None:
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": at.isoformat()}
    pod["status"] = {
        "phase": "Running",
        "containerStatuses": [{"name": "worker", "lastState": {"terminated": ended}}],
    }


def test_a_worker_that_took_too_much_memory_ends_its_attempt_now_and_the_job_tries_smaller(scene: Scene) -> None:
    scene.pool(maxWorkers=1)
    (job_id,) = scene.submit(1)
    scene.round()
    ((name, pod),) = scene.cluster.pods.items()
    scene.report(name)
    scene.claim(job_id, name)
    oom_killed(pod, datetime.now(UTC))
    scene.round()
    with scene.database.transaction() as tx:
        (attempt,) = jobs.attempts(tx, job_id)
    assert (attempt.outcome, attempt.reason_code) == ("resource", "oom_killed")
    assert attempt.evidence["reason"] == "OOMKilled"
    assert attempt.evidence["pod"] == name
    assert scene.job().status == "queued"
    assert scene.job().adjustments


def test_an_end_before_an_attempt_began_is_not_the_attempts(scene: Scene) -> None:
    scene.pool(maxWorkers=1)
    (job_id,) = scene.submit(1)
    scene.round()
    ((name, pod),) = scene.cluster.pods.items()
    scene.report(name)
    oom_killed(pod, datetime.now(UTC) - timedelta(seconds=5))
    scene.claim(job_id, name)
    scene.round()
    assert scene.job().status == "running"
