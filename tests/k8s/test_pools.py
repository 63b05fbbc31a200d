"""Pools by name on a real API server: WorkerPools of two pools grow apart, and each one's workers take its jobs."""

from pathlib import Path

import pytest
from bitsmith_core.jobs import JobStatus

from tests.k8s.conftest import Scene

pytestmark = pytest.mark.k8s


def test_each_pool_grows_for_its_own_jobs_and_runs_them(scene: Scene, tmp_path: Path) -> None:
    scene.platform.scheduler()
    scene.operator()
    gate = tmp_path / "gate"
    with scene.kubelet():
        scene.apply("WorkerPool", "large", {"pool": "h100", "maxWorkers": 2, "idleSeconds": 60})
        scene.apply("WorkerPool", "small", {"maxWorkers": 2, "idleSeconds": 60})
        scene.until(lambda: scene.status("workerpools", "small").get("workers") == 0, "an empty pool")
        held = scene.platform.submit(pool="h100", act="wait", gate=str(gate))
        scene.until(lambda: len(scene.busy()) == 1, "a busy worker")
        assert scene.status("workerpools", "small")["workers"] == 0
        scene.apply("FineTuneJob", "mine", scene.request())
        scene.until_phase("mine", "Succeeded")
        assert scene.status("workerpools", "large")["workers"] == 1
        gate.touch()
        scene.platform.until_status(held, JobStatus.SUCCEEDED)
    (at_large,) = scene.platform.attempts(held)
    (mine,) = (job_id for job_id in scene.job_ids() if job_id != held)
    (at_small,) = scene.platform.attempts(mine)
    assert (at_large.worker.rpartition("-")[0], at_small.worker.rpartition("-")[0]) == ("large", "small")


def test_a_name_that_no_queue_can_have_is_refused_where_it_is_typed(scene: Scene) -> None:
    given = "apiVersion: bitsmith.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: bad}\nspec: {pool: H_100}\n"
    done = scene.cluster.run("apply", "--validate=false", "-n", scene.namespace, "-f", "-", given=given)
    assert done.returncode != 0
    assert "spec.pool in body should match" in done.stderr
