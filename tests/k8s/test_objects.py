"""FineTuneJobs and WorkerPools on a real API server: what people type, and what comes of it."""

import random
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from bitsmith_core.jobs import JobStatus

from tests.k8s.conftest import Scene, install_definitions

pytestmark = pytest.mark.k8s


def test_a_request_that_cannot_be_is_refused_where_it_is_typed(scene: Scene) -> None:
    done = scene.cluster.run(
        "apply", "--validate=false", "-n", scene.namespace, "-f", "-",  # kubectl's own check has other words
        given="apiVersion: bitsmith.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: bad}\n"
        "spec: {seed: one, priority: 1000, deletionPolicy: Maybe}\n",
    )  # fmt: skip
    assert done.returncode != 0
    for said in (
        "spec.seed in body must be of type integer",
        "spec.priority in body should be less than or equal to 100",
        "spec.model: Required value",
        'spec.deletionPolicy: Unsupported value: "Maybe": supported values: "Cancel", "Orphan"',
    ):
        assert said in done.stderr


def test_a_pool_that_cannot_be_is_refused_where_it_is_typed(scene: Scene) -> None:
    done = scene.cluster.run(
        "apply", "--validate=false", "-n", scene.namespace, "-f", "-",
        given="apiVersion: bitsmith.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: bad}\n"
        "spec: {minWorkers: -1, maxWorkers: many, nodeSelector: [gpu], tolerations: [Exists], sharedMemory: 8}\n",
    )  # fmt: skip
    assert done.returncode != 0
    for said in (
        "spec.minWorkers in body should be greater than or equal to 0",
        "spec.maxWorkers in body must be of type integer",
        "spec.nodeSelector in body must be of type object",
        "spec.tolerations",  # newer servers name the item, too
        "spec.sharedMemory in body must be of type string",
    ):
        assert said in done.stderr


def test_a_name_that_no_field_has_is_told(scene: Scene) -> None:
    """By kubectl's own check, or by the server where it checks strictly."""
    for kind, wrong in (("FineTuneJob", "spec: {model: a, modle: b}"), ("WorkerPool", "spec: {maxWorker: 3}")):
        given = f"apiVersion: bitsmith.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: bad}}\n{wrong}\n"
        done = scene.cluster.run("apply", "-n", scene.namespace, "-f", "-", given=given)
        assert done.returncode != 0
        assert "unknown field" in done.stderr
        assert ("modle" if kind == "FineTuneJob" else "maxWorker") in done.stderr


def test_two_who_apply_on_the_servers_side_are_told_of_each_other_and_leave_the_others_fields(scene: Scene) -> None:
    def apply(manager: str, spec: str) -> subprocess.CompletedProcess[str]:
        given = f"apiVersion: bitsmith.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: gpu}}\nspec: {spec}\n"
        whose = ("--server-side", f"--field-manager={manager}")
        return scene.cluster.run("apply", *whose, "-n", scene.namespace, "-f", "-", given=given)

    assert apply("git", "{maxWorkers: 3, order: 1}").returncode == 0
    assert apply("a-person", "{idleSeconds: 60}").returncode == 0
    conflict = apply("a-person", "{idleSeconds: 60, maxWorkers: 5}")
    assert conflict.returncode != 0
    assert ".spec.maxWorkers" in conflict.stderr
    assert '"git"' in conflict.stderr
    # What nobody wrote is not written: a default is the reader's, and moves with the operator's version.
    written = scene.cluster.get("workerpools", scene.namespace, "gpu")["spec"]
    assert written == {"maxWorkers": 3, "order": 1, "idleSeconds": 60}
    assert apply("git", "{maxWorkers: 3}").returncode == 0
    written = scene.cluster.get("workerpools", scene.namespace, "gpu")["spec"]
    assert written == {"maxWorkers": 3, "idleSeconds": 60}


def test_who_applies_an_object_again_takes_nothing_from_the_operator(scene: Scene) -> None:
    scene.operator()
    body = {
        "apiVersion": "bitsmith.dev/v1alpha1", "kind": "FineTuneJob",
        "metadata": {"name": "mine", "namespace": scene.namespace}, "spec": scene.request(),
    }  # fmt: skip
    apply = ("apply", "--server-side", "--field-manager=git", "-f", "-")
    scene.cluster(*apply, given=yaml.safe_dump(body))
    scene.until_phase("mine", "Queued")
    before = scene.status("finetunejobs", "mine")

    scene.cluster(*apply, given=yaml.safe_dump(body))
    # A server of today drops the status here; one of 1.20 refuses it as the operator's.
    tried = scene.cluster.run(*apply, given=yaml.safe_dump({**body, "status": {"phase": "Succeeded"}}))
    assert tried.returncode == 0 or 'conflict with "bitsmith-operator"' in tried.stderr
    assert scene.status("finetunejobs", "mine") == before
    assert len(scene.job_ids()) == 1
    fields = scene.cluster.get("finetunejobs", scene.namespace, "mine")["metadata"]["managedFields"]
    assert {each["manager"]: set(each["fieldsV1"]) for each in fields} == {
        "git": {"f:spec"}, "bitsmith-operator": {"f:status"},
    }  # fmt: skip


def test_kubectl_explains_the_fields(scene: Scene) -> None:
    assert "pause the job" in scene.cluster("explain", "finetunejob.spec.suspend")


def test_an_applied_object_becomes_a_job_that_runs_and_shows_how_it_goes(scene: Scene, tmp_path: Path) -> None:
    scene.platform.scheduler()
    scene.platform.worker()
    scene.operator()
    gate = tmp_path / "gate"
    scene.apply("FineTuneJob", "mine", scene.request(act="wait", gate=str(gate)))
    scene.until_phase("mine", "Running")
    gate.touch()
    scene.until_phase("mine", "Succeeded")
    (job_id,) = scene.job_ids()
    status = scene.status("finetunejobs", "mine")
    assert status["jobId"] == job_id
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Accepted": "True", "Running": "False", "Complete": "True", "Failed": "False",
    }  # fmt: skip
    line = scene.cluster("get", "ftj", "-n", scene.namespace, "--no-headers").split()
    assert line[:2] == ["mine", "Succeeded"]
    assert status["modelVersion"] in line
    scene.cluster("wait", "ftj/mine", "-n", scene.namespace, "--for=condition=Complete", "--timeout=5s")


def test_an_object_that_is_deleted_cancels_its_job_and_goes_at_once(scene: Scene) -> None:
    scene.operator()
    scene.apply("FineTuneJob", "mine", scene.request())
    scene.until_phase("mine", "Queued")
    scene.cluster("delete", "ftj", "mine", "-n", scene.namespace, "--timeout=10s")  # no finalizer holds it
    (job_id,) = scene.job_ids()
    scene.platform.until_status(job_id, JobStatus.CANCELLED)


def test_a_suspended_object_is_paused_and_goes_on(scene: Scene) -> None:
    scene.operator()
    request = scene.request()
    scene.apply("FineTuneJob", "mine", {**request, "suspend": True})
    scene.until_phase("mine", "Suspended")
    scene.apply("FineTuneJob", "mine", request)
    scene.until_phase("mine", "Queued")


def test_a_removed_definition_takes_the_objects_and_leaves_the_jobs(scene: Scene) -> None:
    scene.operator(GONE_AFTER_S="5")
    scene.apply("FineTuneJob", "mine", scene.request())
    scene.until_phase("mine", "Queued")
    time.sleep(6)  # longer than an operator that has just started is patient
    scene.cluster("delete", "crd", "finetunejobs.bitsmith.dev", "--timeout=60s")
    time.sleep(8)
    (job_id,) = scene.job_ids()
    assert scene.platform.job(job_id).status == "queued"
    install_definitions(scene.cluster)


def test_a_pool_grows_for_waiting_jobs_and_shrinks_without_touching_a_busy_worker(scene: Scene, tmp_path: Path) -> None:
    scene.platform.scheduler()
    operator = scene.operator()
    gates = [tmp_path / "one", tmp_path / "two"]
    with scene.kubelet() as kubelet:
        scene.apply("WorkerPool", "gpu", {"maxWorkers": 2, "idleSeconds": 1})
        scene.until(lambda: scene.status("workerpools", "gpu").get("workers") == 0, "an empty pool")
        job_ids = [scene.platform.submit(act="wait", gate=str(gate)) for gate in gates]
        scene.until(lambda: len(scene.busy()) == 2, "two busy workers")

        scene.apply("WorkerPool", "gpu", {"maxWorkers": 0, "idleSeconds": 0})
        time.sleep(4)  # twenty looks
        assert len(scene.busy()) == 2
        assert kubelet.ended == []

        gates[0].touch()
        scene.platform.until_status(job_ids[0], JobStatus.SUCCEEDED)
        scene.until(lambda: len(kubelet.ended) == 1, "the idle worker's end")
        assert scene.platform.job(job_ids[1]).status == "running"
        gates[1].touch()
        scene.platform.until_status(job_ids[1], JobStatus.SUCCEEDED)
        scene.until(lambda: not scene.cluster.pods(scene.namespace), "an empty pool")
    assert [scene.platform.outcomes(job_id) for job_id in job_ids] == [["succeeded"], ["succeeded"]]
    assert operator.is_running()


def test_a_pool_is_scaled_by_kubectl_and_its_pods_go_with_it(scene: Scene) -> None:
    scene.operator()
    scene.apply("WorkerPool", "gpu", {"maxWorkers": 3})
    scene.until(lambda: scene.status("workerpools", "gpu").get("workers") == 0, "an empty pool")
    scene.cluster("scale", "workerpool/gpu", "-n", scene.namespace, "--replicas=3")
    scene.until(lambda: len(scene.cluster.pods(scene.namespace)) == 3, "three pods")
    scene.until(lambda: scene.status("workerpools", "gpu").get("workers") == 3, "a status of three")
    scene.cluster("delete", "workerpool", "gpu", "-n", scene.namespace, "--timeout=10s")
    scene.until(lambda: not scene.cluster.pods(scene.namespace), "no pod without a pool")


def test_a_worker_killed_for_its_memory_ends_its_attempt_before_its_lease(scene: Scene, tmp_path: Path) -> None:
    scene.platform.scheduler()
    scene.operator()
    gate = tmp_path / "gate"
    with scene.kubelet(BITSMITH_WORKER_LEASE_S="120") as kubelet:
        scene.apply("WorkerPool", "gpu", {"maxWorkers": 1})
        job_id = scene.platform.submit(act="wait", gate=str(gate))
        scene.until(lambda: len(scene.busy()) == 1, "a busy worker")
        scene.platform.until_training(job_id)
        (name,) = kubelet.workers
        time.sleep(1)  # Kubernetes counts whole seconds
        kubelet.out_of_memory(name, at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        scene.until(lambda: scene.platform.outcomes(job_id)[0] == "resource", "the end of the attempt", within_s=30)
        gate.touch()
        scene.platform.until_status(job_id, JobStatus.SUCCEEDED)
    first, second = scene.platform.attempts(job_id)
    assert (first.reason_code, first.evidence["reason"], first.evidence["pod"]) == ("oom_killed", "OOMKilled", name)
    assert second.outcome == "succeeded"


def test_an_operator_that_is_killed_again_and_again_does_everything_once(scene: Scene) -> None:
    dice = random.Random(7)
    scene.platform.scheduler()
    operator = scene.operator()
    names = [f"job-{number}" for number in range(5)]
    request = scene.request()
    with scene.kubelet():
        scene.apply("WorkerPool", "cpu", {"minWorkers": 1, "maxWorkers": 2, "idleSeconds": 1})
        for name in names:
            scene.apply("FineTuneJob", name, request)
            time.sleep(dice.uniform(0.0, 3.0))
            operator.kill()
            operator = scene.operator()
        for name in names:
            scene.until_phase(name, "Succeeded")
        scene.until(lambda: len(scene.cluster.pods(scene.namespace)) == 1, "the least number of workers")
    assert len(scene.job_ids()) == len(names)
    assert {scene.platform.job(job_id).submitted_by for job_id in scene.job_ids()} == {
        f"k8s:{scene.namespace}/{name}" for name in names
    }


def test_the_operators_account_may_do_nothing_else(scene: Scene) -> None:
    """The tests above show that it may do enough."""

    def may(*question: str) -> bool:
        done = scene.cluster.run("auth", "can-i", *question, "-n", scene.namespace, config=scene.kubeconfig)
        return done.stdout.strip() == "yes"

    assert may("list", "pods")
    for question in (
        ("get", "secrets"), ("create", "deployments.apps"), ("update", "finetunejobs.bitsmith.dev"),
        ("create", "pods", "--subresource=exec"), ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("list", "pods", "-A"),
    ):  # fmt: skip
        assert not may(*question), question
