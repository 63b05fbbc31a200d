"""Pools of mode job: a Kubernetes Job for each attempt, none too many, and none that is ended from here."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bitsmith_operator import evidence, fleet
from bitsmith_operator.fleet import Run, Worker, launch
from bitsmith_operator.manifests import KEPT_S, POOL_LABEL, gang_service, worker_job, worker_pod
from bitsmith_operator.objects import QUEUE_LABEL, WORKER_LABEL, Meta, WorkerPoolSpec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.operator.test_manifests import DEFAULTS, pool

NOW = datetime(2026, 11, 21, tzinfo=UTC)
AGES = st.none() | st.integers(0, 1000).map(lambda seconds: NOW - timedelta(seconds=seconds))


def environment(manifest: dict[str, Any]) -> dict[str, str]:
    """As the kubelet reads it: the last of a name counts."""
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def test_a_job_is_one_attempt_of_one_worker_that_is_called_as_it_is() -> None:
    job = worker_job(
        pool(mode="job", idleSeconds=60, env=[{"name": "BITSMITH_WORKER_ONCE", "value": "no"}]), DEFAULTS, suffix="abc"
    )
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("batch/v1", "Job", "gpu-abc")
    assert job["spec"].keys() == {"backoffLimit", "ttlSecondsAfterFinished", "template"}
    assert job["spec"]["backoffLimit"] == 0
    env = environment(job)
    assert (env["BITSMITH_WORKER_NAME"], env["BITSMITH_WORKER_ONCE"]) == ("gpu-abc", "true")
    assert env["BITSMITH_WORKER_IDLE_WITHIN_S"] == "60"
    assert "BITSMITH_NODES" not in env
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("WorkerPool", "uid-1", True)


def test_its_pod_is_the_pod_of_a_resident_pool_but_for_what_makes_it_end() -> None:
    spec = {"resources": {"limits": {"nvidia.com/gpu": 8}}, "sharedMemory": "8Gi", "nodeSelector": {"gpu": "h100"}}
    ours = worker_job(pool(mode="job", **spec), DEFAULTS, suffix="abc")["spec"]["template"]["spec"]
    resident = worker_pod(pool(**spec), DEFAULTS, suffix="abc")["spec"]
    assert ours["restartPolicy"] == "Never"
    for each in (ours, resident):
        del each["restartPolicy"], each["containers"][0]["env"]
    assert ours == resident


def test_several_nodes_are_an_indexed_job_whose_first_pod_has_a_stable_name() -> None:
    job = worker_job(pool(mode="job", nodes=4), DEFAULTS, suffix="abc")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert spec["template"]["spec"]["subdomain"] == "gpu-abc"
    env = environment(job)
    assert (env["BITSMITH_NODES"], env["BITSMITH_LEADER_HOST"]) == ("4", "gpu-abc-0.gpu-abc")

    service = gang_service(pool(mode="job", nodes=4), Meta(name="gpu-abc", namespace="ft", uid="uid-2"))
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == ("gpu-abc", "None")
    assert service["spec"]["publishNotReadyAddresses"], "nodes look for each other before any is ready"
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (owner,) = service["metadata"]["ownerReferences"]
    assert (owner["apiVersion"], owner["kind"], owner["uid"]) == ("batch/v1", "Job", "uid-2")


def test_kueue_starts_what_it_queues() -> None:
    assert worker_job(pool(mode="job", labels={QUEUE_LABEL: "q"}), DEFAULTS, suffix="abc")["spec"]["suspend"] is True
    queued = worker_job(pool(mode="job", labels={QUEUE_LABEL: "q"}), DEFAULTS, suffix="abc")
    assert queued["metadata"]["labels"] == {
        QUEUE_LABEL: "q", POOL_LABEL: "gpu", WORKER_LABEL: "gpu-abc", **DEFAULTS.labels,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"mode": "job", "minWorkers": 1}, "minWorkers is 1, but a pool of mode job keeps no workers"),
        ({"nodes": 2}, "nodes is 2, but only pools of mode job have several"),
        ({"mode": "job", "nodes": 65}, "less than or equal to 64"),
    ],
)
def test_a_pool_that_cannot_be_is_told_why(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WorkerPoolSpec.model_validate({"maxWorkers": 2, **spec})


RUNS = st.builds(
    Run,
    name=st.uuids().map(str),
    is_leaving=st.booleans(),
    finished_at=AGES,
    worker=st.sampled_from(Worker),
    is_busy=st.booleans(),
)


@given(st.lists(RUNS, max_size=8), st.integers(0, 8), st.integers(0, 1000))
def test_there_are_as_many_as_are_wanted_and_only_the_long_finished_go(
    runs: list[Run], wanted: int, kept_s: int
) -> None:
    planned = launch(runs, wanted=wanted, kept_for=timedelta(seconds=kept_s), now=NOW)
    open_runs = [run for run in runs if run.finished_at is None and not run.is_leaving]
    assert planned.create + len(open_runs) == max(wanted, len(open_runs))
    by_name = {run.name: run for run in runs}
    for name in planned.forget:
        run = by_name[name]
        assert run.finished_at is not None
        assert NOW - run.finished_at > timedelta(seconds=kept_s)
        assert not run.is_busy
    assert (
        launch([run for run in runs if run.name not in planned.forget], wanted=0, kept_for=timedelta(0), now=NOW).create
        == 0
    )


@given(st.integers(0, 20), st.integers(0, 10), st.integers(0, 5))
def test_rounds_come_to_rest(waiting: int, most: int, busy: int) -> None:
    """What a round makes is there in the next one, which then makes nothing."""
    size = fleet.Size(least=0, most=most, idle_for=timedelta(0))
    runs = [
        Run(name=str(n), is_leaving=False, finished_at=None, worker=Worker.ALIVE, is_busy=True) for n in range(busy)
    ]
    (wanted,) = fleet.share({"default": waiting}, ["default"], [size], [busy])
    first = launch(runs, wanted=wanted, kept_for=timedelta(0), now=NOW)
    assert first.create == min(waiting, max(0, most - busy))
    new = [Run(name=f"new-{n}", is_leaving=False, finished_at=None, worker=Worker.ABSENT) for n in range(first.create)]
    (wanted,) = fleet.share({"default": waiting}, ["default"], [size], [busy])
    assert launch([*runs, *new], wanted=wanted, kept_for=timedelta(0), now=NOW).create == 0


def test_what_ends_any_pod_of_a_job_is_told_to_its_worker() -> None:
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": NOW.isoformat()}
    pod = {
        "metadata": {"name": "gpu-abc-3-x7k2p", "labels": {WORKER_LABEL: "gpu-abc"}},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}]},
    }
    (loss,) = evidence.losses(pod)
    assert (loss.worker, loss.code, loss.evidence["pod"]) == ("gpu-abc", "oom_killed", "gpu-abc-3-x7k2p")


def test_a_finished_job_is_kept_for_a_while() -> None:
    assert worker_job(pool(mode="job"), DEFAULTS, suffix="abc")["spec"]["ttlSecondsAfterFinished"] == KEPT_S > 0
