"""What an attempt says of its job: claim, record, keep, finish, fail, stop; and what is said of one that fell silent.

Every function takes the transaction and never commits. Those that speak for an attempt take its lease and raise
LeaseLost when it no longer holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, assert_never

from bitsmith_core.db import Tx, database_now
from bitsmith_core.db.models import Job
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import chunks, history, leases, repository
from bitsmith_core.jobs.failures import POISON_STEP, Try, adjusted, is_poison, retry_delay
from bitsmith_core.jobs.leases import Lease
from bitsmith_core.jobs.states import DesiredState, JobStatus
from bitsmith_core.pools import DEFAULT_POOL
from bitsmith_core.wire import (
    CheckpointSaved,
    Failed,
    FailureClass,
    Finished,
    Line,
    Metrics,
    Note,
    Progress,
    Stage,
    StageFinished,
    StageStarted,
)

KEPT_CHECKPOINTS = 2  # within a stage: the newest, and one in case that is damaged
EVENTS_OF_A_STAGE = 20  # about so many of its progress are history; the rest is in the metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEnd:
    """What is known of the end of an attempt's engine."""

    exit_code: int | None = None  # negative: the signal that ended it; None: it never ran
    evidence: Mapping[str, Any] = field(default_factory=dict)


NEVER_RAN = EngineEnd()


def claim(tx: Tx, job_id: JobId, *, worker: str, ttl: timedelta, pool: str = DEFAULT_POOL) -> Lease | None:
    """The lease on the job, or None: somebody else has it, it is over, it waits, or for another pool's workers.

    Args:
        pool: the worker's.
    """
    lease = leases.claim(tx, job_id, worker=worker, ttl=ttl, pool=pool)
    if lease is None:
        repository.offer_again(tx, job_id)
        return None
    job = leases.held(tx, lease)
    history.tell(tx, job, "job.started", f"Attempt {lease.attempt} started on {worker}.", attempt=lease.attempt)
    return lease


def record(tx: Tx, lease: Lease, line: Line) -> None:
    """A line from the engine becomes part of what is known of the job; not every one becomes part of its history.

    Finished and Failed are nothing yet: `finish` and `fail` decide what becomes of them. Neither is CheckpointSaved:
    `keep_checkpoint` tells when it is in the object store.
    """
    job = leases.held(tx, lease)
    match line:
        case StageStarted():
            job.stage = line.stage
            job.progress = {"stage": line.stage, "done": 0, "total": 0, "eta_s": None}
            repository.attempt(tx, job.id, lease.attempt).stage = line.stage
            history.tell(tx, job, "stage.started", f"{line.stage.capitalize()}.", **line.model_dump(mode="json"))
        case StageFinished():
            how = "taken from an earlier attempt" if line.resumed else f"finished in {line.wall_s:.1f} s"
            message = f"{line.stage.capitalize()} {how}."
            if not line.resumed:
                _note_peak(tx, lease, line.peak_memory_bytes)
            history.tell(tx, job, "stage.finished", message, **line.model_dump(mode="json"))
        case Progress():
            _progress(tx, job, lease, line)
        case Metrics():
            chunks.add_metrics(tx, job.id, lease.attempt, line)
        case Note():
            data = {"event": "note"}
            repository.add_event(tx, job, type_="message", level=line.level, message=line.message, data=data)
        case CheckpointSaved() | Finished() | Failed():
            pass
        case _:
            assert_never(line)


def keep_checkpoint(
    tx: Tx,
    lease: Lease,
    *,
    stage: str,
    prefix: str,
    files: list[str],
    step: int = 0,
    size_bytes: int = 0,
    metrics: Mapping[str, float] | None = None,
) -> list[str]:
    """What a later attempt may start from is in the object store.

    Args:
        step: of that stage; 0 if the stage is finished.

    Returns:
        Prefixes of older checkpoints that are not kept any more; their objects may go.
    """
    job = leases.held(tx, lease)
    repository.put_checkpoint(
        tx,
        lease.job_id,
        stage=stage,
        step=step,
        attempt=lease.attempt,
        prefix=prefix,
        files=files,
        size_bytes=size_bytes,
        metrics=metrics or {},
    )
    if step == 0:
        return []
    message = f"Checkpoint of {stage} after step {step}."
    history.tell(tx, job, "checkpoint.kept", message, stage=stage, step=step, attempt=lease.attempt)
    return repository.drop_older_checkpoints(tx, lease.job_id, stage=stage, keep=KEPT_CHECKPOINTS)


def keep_log(tx: Tx, lease: Lease, *, number: int, object_key: str, size_bytes: int, lines: int) -> None:
    """A piece of the engine's log is in the object store."""
    leases.held(tx, lease)
    chunks.add_log(
        tx, lease.job_id, lease.attempt, number=number, object_key=object_key, size_bytes=size_bytes, lines=lines
    )


def wish(tx: Tx, lease: Lease) -> DesiredState:
    """What people want of the job. It is locked, so that nobody wants anything else before this transaction ends.

    Raises:
        LeaseLost
    """
    return DesiredState(leases.held(tx, lease).desired_state)


def finish(tx: Tx, lease: Lease, *, result: str, end: EngineEnd = NEVER_RAN) -> None:
    """The job succeeded; `result` names what was published in this same transaction.

    Raises:
        LeaseLost: and with it goes the publication: exactly one attempt publishes.
    """
    job = leases.held(tx, lease)
    repository.end_attempt(tx, job, outcome=JobStatus.SUCCEEDED, exit_code=end.exit_code, evidence=end.evidence)
    history.end(tx, job, JobStatus.SUCCEEDED, "job.succeeded", f"Published as {result}.", result=result)


def fail(tx: Tx, lease: Lease, failure: Failed, *, end: EngineEnd = NEVER_RAN) -> JobStatus:
    """The attempt failed: try again if the class of failure has budget left, otherwise the job has failed.

    A job that people want cancelled is not tried again, one that they want paused not now.
    """
    return _attempt_failed(tx, leases.held(tx, lease), failure, end)


def stopped(tx: Tx, lease: Lease, *, end: EngineEnd = NEVER_RAN) -> JobStatus:
    """The engine stopped because it was asked to: cancelled, paused, or the worker goes away and another takes over."""
    job = leases.held(tx, lease)
    wish = DesiredState(job.desired_state)
    if wish is DesiredState.RUN:
        going_away = Failed(failure=FailureClass.YIELD, code="worker_stopped", message="The worker was asked to stop.")
        return _attempt_failed(tx, job, going_away, end)
    status = JobStatus.CANCELLED if wish is DesiredState.CANCEL else JobStatus.PAUSED
    repository.end_attempt(tx, job, outcome=status, exit_code=end.exit_code, evidence=end.evidence)
    _do_as_wished(tx, job)
    return status


def reap(tx: Tx, *, limit: int = 100) -> list[JobId]:
    """Attempts whose worker went silent end here, and their jobs wait again (or fail, pause, are cancelled)."""
    reaped = repository.lapsed(tx, limit=limit)
    for job in reaped:
        silent = Failed(
            failure=FailureClass.INFRA,
            code="lease_expired",
            message=f"Worker {job.lease_worker} stopped reporting.",
        )
        _attempt_failed(tx, job, silent, NEVER_RAN)
    return [job.id for job in reaped]


def lose(tx: Tx, job: Job, failure: Failed, *, end: EngineEnd) -> JobStatus:
    """Somebody saw the worker's process end: its attempt ends now, as if it had said so itself.

    Args:
        job: which runs, its row held.
    """
    return _attempt_failed(tx, job, failure, end)


def _progress(tx: Tx, job: Job, lease: Lease, line: Progress) -> None:
    facts = line.model_dump(mode="json", exclude={"type"})
    is_event = _is_event(job.progress, line)
    job.progress = {name: facts[name] for name in ("stage", "done", "total", "eta_s", "metrics")}
    if line.stage == Stage.TRAINING and line.done:
        attempt = repository.attempt(tx, job.id, lease.attempt)
        attempt.end_step = line.done
        if attempt.start_step is None:
            attempt.start_step = line.done - 1
    if (peak := line.metrics.get("peak_memory_bytes")) is not None:
        _note_peak(tx, lease, int(peak))
    if is_event:
        message = f"{line.stage.capitalize()}: {line.done}/{line.total}"
        repository.add_event(tx, job, type_="metrics", message=message, data={"event": "progress", **facts})


def _is_event(before: Mapping[str, Any], now: Progress) -> bool:
    """The first of a stage, then about one for every twentieth of it."""
    if before.get("stage") != now.stage or not before["total"]:
        return True
    part_before: int = EVENTS_OF_A_STAGE * before["done"] // before["total"]
    return EVENTS_OF_A_STAGE * now.done // max(now.total, 1) > part_before


def _note_peak(tx: Tx, lease: Lease, peak_memory_bytes: int) -> None:
    attempt = repository.attempt(tx, lease.job_id, lease.attempt)
    attempt.peak_memory_bytes = max(attempt.peak_memory_bytes or 0, peak_memory_bytes)


def _attempt_failed(tx: Tx, job: Job, failure: Failed, end: EngineEnd) -> JobStatus:
    tx.flush()
    *earlier, now = [
        Try(outcome=attempt.outcome, stage=attempt.stage, end_step=attempt.end_step)
        for attempt in repository.attempts(tx, job.id)
    ]
    repository.end_attempt(
        tx,
        job,
        outcome=failure.failure,
        code=failure.code,
        message=failure.message,
        exit_code=end.exit_code,
        evidence=end.evidence,
    )
    if job.desired_state == DesiredState.CANCEL:
        _do_as_wished(tx, job)
        return JobStatus.CANCELLED

    if is_poison(replace(now, outcome=failure.failure), earlier):
        problem = f"Training failed twice after step {now.end_step}, so it is not tried again. {failure.message}"
        return _job_failed(tx, job, POISON_STEP, problem)
    delay = retry_delay(failure.failure, [past.outcome for past in earlier])
    if delay is None:
        return _job_failed(tx, job, failure.code, failure.message)

    job.adjustments = adjusted(job.adjustments, failure, spec=job.spec, worker=job.lease_worker)
    if job.desired_state == DesiredState.PAUSE:
        _do_as_wished(tx, job)
        return JobStatus.PAUSED
    history.release(job, JobStatus.QUEUED)
    job.not_before = database_now() + delay
    history.tell(
        tx, job, "job.requeued", f"{failure.message} Trying again from the last checkpoint.",
        level="warn", code=failure.code, attempt=job.attempt_no, adjustments=job.adjustments,
    )  # fmt: skip
    return JobStatus.QUEUED


def _job_failed(tx: Tx, job: Job, code: str, message: str) -> JobStatus:
    job.reason_code, job.reason_message = code, message
    history.end(tx, job, JobStatus.FAILED, "job.failed", message, level="error", code=code)
    return JobStatus.FAILED


def _do_as_wished(tx: Tx, job: Job) -> None:
    """Nobody works on the job any more, and people want it cancelled or paused."""
    if job.desired_state == DesiredState.CANCEL:
        history.end(tx, job, JobStatus.CANCELLED, "job.cancelled", "Job cancelled.")
    else:
        history.pause(tx, job)
