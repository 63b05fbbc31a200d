"""Pools by name, with a real Postgres: what waits for one makes no WorkerPool of another grow."""

from sqlalchemy import text

from tests.operator.test_reconcile import Scene, scene  # noqa: F401  # a fixture


def test_pools_of_different_names_scale_apart(scene: Scene) -> None:  # noqa: F811
    scene.pool("h100", pool="h100", maxWorkers=9)
    scene.pool("cheap", pool="l40s", order=1, maxWorkers=9)
    scene.pool("spot", pool="l40s", order=0, maxWorkers=1)
    scene.pool("gpu", maxWorkers=9)
    scene.submit(2, pool="h100")
    scene.submit(3, pool="l40s")
    scene.submit(1, pool="nobodys")
    scene.round()
    wanted = {name: scene.pool_status(name)["wanted"] for name in ("h100", "spot", "cheap", "gpu")}
    assert wanted == {"h100": 2, "spot": 1, "cheap": 2, "gpu": 0}
    pools = {
        name: env["value"]
        for name, pod in scene.cluster.pods.items()
        for env in pod["spec"]["containers"][0]["env"]
        if env["name"] == "BITSMITH_WORKER_POOL"
    }
    assert sorted(pools.values()) == ["h100", "h100", "l40s", "l40s", "l40s"]


def test_idle_workers_of_one_pool_take_nothing_of_anothers(scene: Scene) -> None:  # noqa: F811
    scene.pool(maxWorkers=9, pool="h100")
    scene.report("elsewhere-1", "elsewhere-2")
    scene.report("elsewhere-3", pool="h100")
    scene.submit(3, pool="h100")
    scene.round()
    assert len(scene.cluster.pods) == 2


def test_a_job_that_runs_holds_the_worker_of_its_own_pool_only(scene: Scene) -> None:  # noqa: F811
    scene.pool("h100", pool="h100", maxWorkers=2)
    scene.pool("gpu", maxWorkers=2)
    (job_id,) = scene.submit(1, pool="h100")
    scene.round()
    (name,) = scene.cluster.pods
    scene.report(name, pool="h100")
    scene.claim(job_id, name, pool="h100")
    scene.submit(1)
    scene.round()
    assert [(scene.pool_status(each)["wanted"], scene.pool_status(each)["busy"]) for each in ("h100", "gpu")] == [
        (1, 1), (1, 0),
    ]  # fmt: skip


def test_a_pools_name_is_checked(scene: Scene) -> None:  # noqa: F811
    scene.pool(pool="Not a name")
    scene.round()
    (condition,) = scene.pool_status()["conditions"]
    assert "spec.pool" in condition["message"]


def test_a_limit_of_a_project_counts_in_each_pool_that_it_waits_for(scene: Scene) -> None:  # noqa: F811
    """Which of them has a worker free first nobody knows; one that is full must not keep the other from growing."""
    with scene.database.transaction() as tx:
        tx.execute(text("UPDATE projects SET limits = '{\"running_jobs\": 2}'"))
    scene.pool("h100", pool="h100", maxWorkers=0)
    scene.pool("gpu", maxWorkers=9)
    scene.submit(5, pool="h100")
    scene.submit(5)
    scene.round()
    assert scene.pool_status("gpu")["wanted"] == 2
