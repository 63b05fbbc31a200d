"""What attempts leave: how each went, and what the next one can go on from."""

from bitsmith_core import jobs
from bitsmith_core.wire import Failed, FailureClass, Progress, Stage, StageStarted

from tests.api.conftest import Platform, assert_problem

PATH = "/v1/fine_tuning/jobs"


def test_attempts_are_listed_newest_first_with_what_was_seen(platform: Platform) -> None:
    job_id = platform.submit()
    lease = platform.claim(job_id)
    with platform.database.transaction() as tx:
        jobs.record(tx, lease, StageStarted(stage=Stage.TRAINING))
        jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=4, total=9))
        killed = Failed(failure=FailureClass.INFRA, code="engine_died", message="Killed.")
        jobs.fail(tx, lease, killed, end=jobs.EngineEnd(exit_code=-9, evidence={"signal": "SIGKILL"}))
    with platform.database.transaction() as tx:
        jobs.get(tx, job_id).not_before = jobs.get(tx, job_id).created_at
    platform.claim(job_id)

    second, first = platform.client.get(f"{PATH}/{job_id}/attempts").json()["data"]
    assert (second["number"], second["outcome"], second["ended_at"]) == (2, None, None)
    assert first["id"] == f"{job_id}:1"
    assert (first["outcome"], first["reason_code"], first["exit_code"]) == ("infra", "engine_died", -9)
    assert (first["stage"], first["start_step"], first["end_step"]) == ("training", 3, 4)
    assert first["evidence"]["signal"] == "SIGKILL"
    assert first["ended_at"] >= first["started_at"]


def test_attempts_come_page_by_page(platform: Platform) -> None:
    job_id = platform.submit()
    for _ in range(3):
        lease = platform.claim(job_id)
        with platform.database.transaction() as tx:
            jobs.fail(tx, lease, Failed(failure=FailureClass.YIELD, code="worker_stopped", message="Going."))
    first = platform.client.get(f"{PATH}/{job_id}/attempts?limit=2").json()
    rest = platform.client.get(f"{PATH}/{job_id}/attempts?limit=2&after={first['last_id']}").json()
    assert [attempt["number"] for attempt in first["data"] + rest["data"]] == [3, 2, 1]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    answer = platform.client.get(f"{PATH}/{job_id}/attempts?after=x")
    assert_problem(answer, 422, "invalid_request", "query after")


def test_checkpoints_are_listed_newest_first_in_openais_words(platform: Platform) -> None:
    lease = platform.claim(platform.submit(suffix="demo"))
    with platform.database.transaction() as tx:
        jobs.keep_checkpoint(tx, lease, stage="quantizing", prefix="p/q", files=["a"], size_bytes=5)
    with platform.database.transaction() as tx:
        jobs.keep_checkpoint(
            tx, lease, stage="training", step=40, prefix="p/t", files=["a", "b"], size_bytes=9,
            metrics={"loss": 1.5, "held_out_loss": 1.75},
        )  # fmt: skip
    training, quantizing = platform.client.get(f"{PATH}/{lease.job_id}/checkpoints").json()["data"]
    assert (training["object"], training["fine_tuning_job_id"]) == ("fine_tuning.job.checkpoint", lease.job_id)
    assert (training["step_number"], training["stage"], training["attempt"]) == (40, "training", 1)
    assert (training["metrics"]["train_loss"], training["metrics"]["valid_loss"]) == (1.5, 1.75)
    assert (training["files"], training["bytes"]) == (2, 9)
    assert training["fine_tuned_model_checkpoint"] == "tiny-demo:training-40"
    assert (quantizing["step_number"], quantizing["stage"]) == (0, "quantizing")

    first = platform.client.get(f"{PATH}/{lease.job_id}/checkpoints?limit=1").json()
    rest = platform.client.get(f"{PATH}/{lease.job_id}/checkpoints?limit=1&after={first['last_id']}").json()
    assert (first["data"], first["has_more"]) == ([training], True)
    assert (rest["data"], rest["has_more"]) == ([quantizing], False)
    answer = platform.client.get(f"{PATH}/{lease.job_id}/checkpoints?after=x")
    assert_problem(answer, 422, "invalid_request", "query after")
