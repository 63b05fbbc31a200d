"""What a job promises: one attempt at a time, one history without gaps, nothing lost."""

from datetime import timedelta

import pytest
from bitsmith_core import files, jobs
from bitsmith_core.db import Tx
from bitsmith_core.errors import IllegalTransition, InvalidSpec, LeaseLost
from bitsmith_core.ids import DEFAULT_PROJECT, JobId, new_file_id
from bitsmith_core.jobs import JobStatus
from bitsmith_core.jobs.queries import JobFilter
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass, Progress, Stage, StageStarted
from sqlalchemy import text

MINUTE = timedelta(minutes=1)


@pytest.fixture
def job_id(tx: Tx, spec: JobSpec) -> JobId:
    return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id


def claimed(tx: Tx, job_id: JobId, worker: str = "gpu-0") -> jobs.Lease:
    lease = jobs.claim(tx, job_id, worker=worker, ttl=MINUTE)
    assert lease is not None
    return lease


def let_lease_lapse(tx: Tx, job_id: JobId) -> None:
    tx.flush()
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE id = :id"), {"id": job_id})
    tx.expire_all()


def skip_back_off(tx: Tx, job_id: JobId) -> None:
    tx.flush()
    tx.execute(text("UPDATE jobs SET not_before = now() WHERE id = :id"), {"id": job_id})
    tx.expire_all()


def events(tx: Tx, job_id: JobId) -> list[str]:
    return [event.data["event"] for event in jobs.events_after(tx, job_id, seq=0, limit=100)]


def failure(kind: FailureClass) -> Failed:
    return Failed(failure=kind, code="test", message="It broke.")


def test_the_second_delivery_of_a_message_loses(tx: Tx, job_id: JobId) -> None:
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE)
    assert jobs.claim(tx, job_id, worker="gpu-1", ttl=MINUTE) is None


def test_a_job_whose_worker_died_is_taken_over_and_its_attempt_ended(tx: Tx, job_id: JobId) -> None:
    claimed(tx, job_id)
    let_lease_lapse(tx, job_id)
    second = claimed(tx, job_id, "gpu-1")
    assert second.attempt == 2
    assert [attempt.outcome for attempt in jobs.attempts(tx, job_id)] == [FailureClass.INFRA, None]


def test_a_worker_that_wakes_too_late_can_write_nothing(tx: Tx, job_id: JobId) -> None:
    late = claimed(tx, job_id)
    let_lease_lapse(tx, job_id)
    claimed(tx, job_id, "gpu-1")
    for write in (
        lambda: jobs.extend(tx, late, ttl=MINUTE),
        lambda: jobs.record(tx, late, StageStarted(stage=Stage.TRAINING)),
        lambda: jobs.keep_checkpoint(tx, late, stage="training", prefix="p", files=[]),
        lambda: jobs.finish(tx, late, result="m@1"),
        lambda: jobs.fail(tx, late, failure(FailureClass.INFRA)),
        lambda: jobs.stopped(tx, late),
    ):
        with pytest.raises(LeaseLost):
            write()


def test_attempts_never_share_a_place_in_the_store(tx: Tx, job_id: JobId) -> None:
    first = claimed(tx, job_id)
    let_lease_lapse(tx, job_id)
    assert claimed(tx, job_id).prefix != first.prefix


def test_history_is_numbered_without_gaps(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.record(tx, lease, StageStarted(stage=Stage.TRAINING))
    jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=3, total=9, eta_s=4.5, metrics={"loss": 2.0}))
    jobs.finish(tx, lease, result="m@1")
    tx.flush()
    found = jobs.events_after(tx, job_id, seq=0, limit=100)
    assert [event.seq for event in found] == [1, 2, 3, 4, 5]
    assert events(tx, job_id) == ["job.queued", "job.started", "stage.started", "progress", "job.succeeded"]
    assert found[3].data["metrics"] == {"loss": 2.0}
    progress = {"stage": "training", "done": 3, "total": 9, "eta_s": 4.5, "metrics": {"loss": 2.0}}
    assert jobs.get(tx, job_id).progress == progress


@pytest.mark.parametrize(
    ("kind", "attempts_in_all"),
    [
        (FailureClass.DATA, 1),
        (FailureClass.CONFIG, 1),
        (FailureClass.DIVERGENCE, 2),
        (FailureClass.RESOURCE, 2),
        (FailureClass.UNKNOWN, 2),
        (FailureClass.INFRA, 6),
    ],
)
def test_each_class_of_failure_has_its_own_budget(
    tx: Tx, job_id: JobId, kind: FailureClass, attempts_in_all: int
) -> None:
    for number in range(1, attempts_in_all + 1):
        status = jobs.fail(tx, claimed(tx, job_id), failure(kind))
        assert status == (JobStatus.FAILED if number == attempts_in_all else JobStatus.QUEUED)
        skip_back_off(tx, job_id)
    assert jobs.get(tx, job_id).reason_code == "test"


def test_being_asked_to_stop_costs_no_budget(tx: Tx, job_id: JobId) -> None:
    for _ in range(20):
        assert jobs.stopped(tx, claimed(tx, job_id)) is JobStatus.QUEUED
        skip_back_off(tx, job_id)


def test_a_failed_attempt_waits_before_the_next(tx: Tx, job_id: JobId) -> None:
    jobs.fail(tx, claimed(tx, job_id), failure(FailureClass.INFRA))
    tx.flush()
    assert jobs.claim(tx, job_id, worker="gpu-1", ttl=MINUTE) is None


def test_cancelling_a_waiting_job_ends_it_at_once(tx: Tx, job_id: JobId) -> None:
    assert jobs.cancel(tx, job_id).status == JobStatus.CANCELLED
    assert jobs.claim(tx, job_id, worker="gpu-0", ttl=MINUTE) is None
    assert jobs.cancel(tx, job_id).status == JobStatus.CANCELLED


def test_cancelling_a_running_job_reaches_its_worker_with_the_heartbeat(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    assert jobs.extend(tx, lease, ttl=MINUTE) is jobs.DesiredState.RUN
    assert jobs.cancel(tx, job_id).status == JobStatus.RUNNING
    assert jobs.extend(tx, lease, ttl=MINUTE) is jobs.DesiredState.CANCEL
    assert jobs.stopped(tx, lease) is JobStatus.CANCELLED


def test_a_job_that_finishes_while_being_cancelled_has_succeeded(tx: Tx, job_id: JobId) -> None:
    lease = claimed(tx, job_id)
    jobs.cancel(tx, job_id)
    jobs.finish(tx, lease, result="m@1")
    with pytest.raises(IllegalTransition, match="is succeeded and cannot become cancelled"):
        jobs.cancel(tx, job_id)


def test_a_cancelled_job_whose_worker_died_is_not_tried_again(tx: Tx, job_id: JobId) -> None:
    claimed(tx, job_id)
    jobs.cancel(tx, job_id)
    let_lease_lapse(tx, job_id)
    assert jobs.reap(tx) == [job_id]
    assert jobs.get(tx, job_id).status == JobStatus.CANCELLED


def test_reaping_leaves_live_leases_alone(tx: Tx, job_id: JobId) -> None:
    claimed(tx, job_id)
    assert jobs.reap(tx) == []
    let_lease_lapse(tx, job_id)
    assert jobs.reap(tx) == [job_id]
    assert jobs.get(tx, job_id).status == JobStatus.QUEUED
    assert "job.requeued" in events(tx, job_id)


def test_jobs_are_offered_only_to_free_workers_and_oldest_first(tx: Tx, spec: JobSpec) -> None:
    first, second, third = (jobs.submit(tx, spec, project=DEFAULT_PROJECT).id for _ in range(3))
    assert jobs.offer(tx) == []
    jobs.workers.report(tx, name="gpu-0", device="cpu", local_models=[])
    jobs.workers.report(tx, name="gpu-1", device="cpu", local_models=[])
    assert jobs.offer(tx) == [first, second]
    assert jobs.offer(tx) == []
    claimed(tx, first, "gpu-0")
    assert jobs.offer(tx) == []
    jobs.finish(tx, claimed(tx, second, "gpu-1"), result="m@1")
    tx.flush()
    assert jobs.offer(tx) == [third]
    assert [row.payload["job_id"] for row in jobs.outbox.unsent(tx, limit=10)] == [first, second, third]


def test_an_offer_that_nobody_took_is_made_again(tx: Tx, job_id: JobId) -> None:
    jobs.workers.report(tx, name="gpu-0", device="cpu", local_models=[])
    assert jobs.offer(tx) == [job_id]
    tx.flush()
    tx.execute(text("UPDATE jobs SET offered_at = now() - interval '1 h'"))
    assert jobs.offer(tx) == [job_id]


def test_unknown_files_are_named_before_anything_is_stored(tx: Tx, spec: JobSpec) -> None:
    broken = spec.model_copy(update={"validation_file": new_file_id()})
    with pytest.raises(InvalidSpec) as caught:
        jobs.submit(tx, broken, project=DEFAULT_PROJECT)
    assert [problem.pointer for problem in caught.value.problems] == ["/validation_file"]
    assert jobs.queries.page(tx, project=DEFAULT_PROJECT, limit=1, wanted=JobFilter()).jobs == []


def test_a_local_model_that_no_live_worker_has_is_refused_with_what_there_is(tx: Tx, spec: JobSpec) -> None:
    local = spec.model_copy(update={"model": "local:absent"})
    assert jobs.submit(tx, local, project=DEFAULT_PROJECT)  # nobody is there to know better
    jobs.workers.report(tx, name="gpu-0", device="cpu", local_models=["present.gguf"])
    with pytest.raises(InvalidSpec, match=r"local:present\.gguf"):
        jobs.submit(tx, local, project=DEFAULT_PROJECT)
    assert jobs.submit(tx, spec.model_copy(update={"model": "local:present.gguf"}), project=DEFAULT_PROJECT)


def test_a_benchmarks_files_must_exist_and_be_eval_packs(tx: Tx, spec: JobSpec) -> None:
    unknown = new_file_id()
    pack = files.add(
        tx, project=DEFAULT_PROJECT, filename="p.jsonl", purpose="evals", size_bytes=1, sha256="0" * 64, examples=1
    ).id

    def with_benchmark(**named: str) -> JobSpec:
        benchmarks = [{"task": "piqa", "file": pack}, {"task": "boolq", "file": pack, **named}]
        method = {"type": "quantize", "quantize": {"evaluation": {"benchmarks": benchmarks}}}
        return JobSpec.model_validate({**spec.model_dump(mode="json"), "method": method})

    jobs.check(tx, with_benchmark(fewshot_file=pack), project=DEFAULT_PROJECT)
    place = "/method/quantize/evaluation/benchmarks/1"
    for named, pointer, code in (
        ({"file": unknown}, f"{place}/file", "unknown_file"),
        ({"fewshot_file": spec.training_file}, f"{place}/fewshot_file", "wrong_purpose"),
    ):
        with pytest.raises(InvalidSpec) as caught:
            jobs.check(tx, with_benchmark(**named), project=DEFAULT_PROJECT)
        assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [(pointer, code)]


def test_an_eval_pack_is_nothing_to_train_on(tx: Tx, spec: JobSpec) -> None:
    pack = files.add(
        tx, project=DEFAULT_PROJECT, filename="p.jsonl", purpose="evals", size_bytes=1, sha256="0" * 64, examples=1
    ).id
    with pytest.raises(InvalidSpec, match="was uploaded for the purpose 'evals'; upload it again for 'fine-tune'"):
        jobs.submit(tx, spec.model_copy(update={"training_file": pack}), project=DEFAULT_PROJECT)
