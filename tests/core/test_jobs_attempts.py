"""What is known of an attempt afterwards, and what the next one does otherwise because of it."""

from datetime import timedelta

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import EngineEnd, JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass, Metrics, Progress, Stage, StageFinished, StageStarted
from pydantic import ValidationError
from sqlalchemy import text

MINUTE = timedelta(minutes=1)
TRAINING = Stage.TRAINING


@pytest.fixture
def job_id(tx: Tx, spec: JobSpec) -> JobId:
    return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def claimed(tx: Tx, job_id: JobId, worker: str = "gpu-0") -> jobs.Lease:
    tx.flush()
    tx.execute(text("UPDATE jobs SET not_before = now()"))
    tx.expire_all()
    lease = jobs.claim(tx, job_id, worker=worker, ttl=MINUTE)
    assert lease is not None
    return lease


def train_to(tx: Tx, lease: jobs.Lease, *steps: int) -> None:
    jobs.record(tx, lease, StageStarted(stage=TRAINING))
    for step in steps:
        jobs.record(tx, lease, Progress(stage=TRAINING, done=step, total=100, metrics={"loss": 2.0}))


def fail(tx: Tx, lease: jobs.Lease, kind: FailureClass, code: str = "test") -> JobStatus:
    return jobs.fail(tx, lease, Failed(failure=kind, code=code, message="It broke."))


def test_an_attempt_knows_where_it_began_where_it_ended_and_what_it_took(tx: Tx, job_id: JobId) -> None:
    jobs.workers.report(tx, name="gpu-0", device="cuda", local_models=[], devices=4, memory_bytes=2**34)
    lease = claimed(tx, job_id)
    tx.flush()
    tx.execute(text("UPDATE attempts SET started_at = now() - interval '10 s'"))
    tx.expire_all()
    train_to(tx, lease, 41, 57)
    jobs.record(tx, lease, StageFinished(stage=TRAINING, wall_s=1, peak_memory_bytes=700))
    oom = Failed(failure=FailureClass.RESOURCE, code="out_of_space", message="No room.")
    jobs.fail(tx, lease, oom, end=EngineEnd(exit_code=1, evidence={"log_end": "bye"}))
    (attempt,) = jobs.attempts(tx, job_id)
    assert (attempt.stage, attempt.start_step, attempt.end_step) == ("training", 40, 57)
    assert (attempt.exit_code, attempt.peak_memory_bytes, attempt.gpu_seconds) == (1, 700, 40)
    assert attempt.evidence == {"device": "cuda", "devices": 4, "memory_bytes": 2**34, "log_end": "bye"}


def test_a_silent_attempt_is_charged_until_its_lease_ran_out(tx: Tx, job_id: JobId) -> None:
    claimed(tx, job_id)
    tx.flush()
    tx.execute(text("UPDATE attempts SET started_at = now() - interval '1 h'"))
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '50 min'"))
    tx.expire_all()
    jobs.reap(tx)
    assert jobs.attempts(tx, job_id)[0].gpu_seconds == 600


@pytest.mark.parametrize("kinds", [("unknown", "resource"), ("resource", "resource"), ("divergence", "unknown")])
def test_a_step_that_fails_twice_is_poison_whatever_the_classes(tx: Tx, job_id: JobId, kinds: tuple[str, str]) -> None:
    for number, kind in enumerate(kinds):
        lease = claimed(tx, job_id)
        train_to(tx, lease, 57)
        status = fail(tx, lease, FailureClass(kind))
        assert status is (JobStatus.FAILED if number else JobStatus.QUEUED)
    job = jobs.get(tx, job_id)
    assert job.reason_code == "poison_step"
    assert job.reason_message == "Training failed twice after step 57, so it is not tried again. It broke."


def test_failing_at_another_step_or_losing_the_worker_there_is_no_poison(tx: Tx, job_id: JobId) -> None:
    for step, kind in ((57, "infra"), (57, "infra"), (57, "unknown"), (58, "resource"), (57, "infra")):
        lease = claimed(tx, job_id)
        train_to(tx, lease, step)
        assert fail(tx, lease, FailureClass(kind)) is JobStatus.QUEUED


def test_out_of_memory_halves_the_micro_batch_and_divergence_the_flip_budget(tx: Tx, job_id: JobId) -> None:
    fail(tx, claimed(tx, job_id), FailureClass.RESOURCE)
    assert jobs.get(tx, job_id).adjustments == {"micro_batch_size": 4}  # of a batch of 8
    fail(tx, claimed(tx, job_id), FailureClass.DIVERGENCE)
    assert jobs.get(tx, job_id).adjustments == {"micro_batch_size": 4, "step_factor": 0.5}


def test_a_job_leaves_a_worker_without_room_to_others_if_there_are_any(tx: Tx, job_id: JobId) -> None:
    fail(tx, claimed(tx, job_id, "small"), FailureClass.RESOURCE, "disk_full")
    assert jobs.get(tx, job_id).adjustments == {"avoid_worker": "small"}
    tx.flush()
    tx.execute(text("UPDATE jobs SET not_before = now()"))
    jobs.workers.report(tx, name="large", device="cpu", local_models=[])
    assert jobs.claim(tx, job_id, worker="small", ttl=MINUTE) is None
    jobs.workers.leave(tx, "large")
    assert claimed(tx, job_id, "small").attempt == 2


def test_progress_is_at_most_twenty_events_and_one_for_each_stage(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.record(tx, lease, StageStarted(stage=TRAINING))
    for step in range(1, 1001):
        jobs.record(tx, lease, Progress(stage=TRAINING, done=step, total=1000, metrics={"loss": 2.0}))
    tx.flush()
    told = [event for event in jobs.events_after(tx, job_id, seq=0, limit=10_000) if event.type == "metrics"]
    assert [event.data["done"] for event in told] == [1, *range(50, 1001, 50)]
    assert jobs.get(tx, job_id).progress["done"] == 1000


def test_a_run_that_goes_back_takes_its_later_chunks_with_it(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    for first in (1, 11, 21, 11):
        steps = list(range(first, first + 10))
        jobs.record(tx, lease, Metrics(stage=TRAINING, steps=steps, columns={"loss": [float(first)] * 10}))
    assert [chunk.steps[0] for chunk in jobs.chunks.metrics(tx, job_id)] == [1, 11]


def test_metrics_are_a_rectangle_of_increasing_steps_and_json_knows_no_nan() -> None:
    assert Metrics(stage=TRAINING, steps=[1], columns={"loss": [float("nan")]}).columns == {"loss": [None]}
    for steps in ([1, 2], [2, 1, 3]):
        with pytest.raises(ValidationError):
            Metrics(stage=TRAINING, steps=steps, columns={"loss": [1.0, 2.0, 3.0]})


def test_of_checkpoints_within_a_stage_the_last_two_stay_and_finished_stages_all(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.keep_checkpoint(tx, lease, stage="quantizing", prefix="q", files=["f"])
    dropped = [
        jobs.keep_checkpoint(tx, lease, stage="training", step=step, prefix=f"t{step}", files=["f"])
        for step in (100, 200, 300)
    ]
    assert dropped == [[], [], ["t100"]]
    assert {kept.prefix for kept in jobs.checkpoints(tx, job_id)} == {"q", "t200", "t300"}


def test_a_log_piece_told_twice_is_there_once(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    for _ in range(2):
        jobs.keep_log(tx, lease, number=0, object_key="k", size_bytes=5, lines=1)
    assert [piece.object_key for piece in jobs.chunks.logs(tx, job_id)] == ["k"]
