"""What can happen to a job, in the words people use: submit, offer, record, finish, fail, cancel, reap.

Every function takes the transaction and never commits. Those that speak for an
attempt take its lease and raise LeaseLost when it no longer holds.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import assert_never

from bitsmith_core.db import Tx, database_now
from bitsmith_core.db.models import Job, JobEvent
from bitsmith_core.errors import InvalidSpec, NotFound, Problem
from bitsmith_core.ids import FileId, JobId, ProjectId, new_job_id
from bitsmith_core.jobs import leases, outbox, repository, workers
from bitsmith_core.jobs.failures import retry_delay
from bitsmith_core.jobs.leases import Lease
from bitsmith_core.jobs.states import TERMINAL, DesiredState, JobStatus, check_transition
from bitsmith_core.spec import JobSpec, local_path
from bitsmith_core.wire import Failed, FailureClass, Finished, Line, Note, Progress, StageFinished, StageStarted

OFFER_AGAIN_AFTER = timedelta(seconds=15)  # a message is claimed within a second or two, or it is lost


def submit(tx: Tx, spec: JobSpec, *, project: ProjectId) -> Job:
    """Queue a job. The one door in: API and operator both come through here.

    Raises:
        InvalidSpec: a file does not exist or is for another purpose, or no live worker has the local model.
    """
    check(tx, spec, project=project)
    job = Job(
        id=new_job_id(),
        project_id=project,
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec.sha256,
        base_model=spec.model,
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        labels=dict(spec.metadata),
        last_seq=0,
    )
    tx.add(job)
    tx.flush()
    _tell(tx, job, "job.queued", "Job queued.")
    tx.flush()
    tx.refresh(job)
    return job


def check(tx: Tx, spec: JobSpec, *, project: ProjectId) -> None:
    """Whether the spec could be submitted now; writes nothing.

    Raises:
        InvalidSpec: a file does not exist or is for another purpose, or no live worker has the local model.
    """
    problems = [*_unusable_files(tx, spec, project), *_unknown_model(tx, spec)]
    if problems:
        raise InvalidSpec(problems[0].detail, problems)


def belongs_to(tx: Tx, job_id: JobId, project: ProjectId) -> bool:
    """Whether the job exists, for this project."""
    job = repository.get(tx, job_id)
    return job is not None and job.project_id == project


def get(tx: Tx, job_id: JobId) -> Job:
    job = repository.get(tx, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def events_after(tx: Tx, job_id: JobId, *, seq: int, limit: int) -> list[JobEvent]:
    """The job's history from after event number seq.

    Raises:
        NotFound: there is no such job.
    """
    get(tx, job_id)
    return repository.events_after(tx, job_id, seq=seq, limit=limit)


def events_before(tx: Tx, job_id: JobId, *, seq: int | None, limit: int) -> list[JobEvent]:
    """The job's history backwards from before event number seq, or from its newest.

    Raises:
        NotFound: there is no such job.
    """
    get(tx, job_id)
    return repository.events_before(tx, job_id, seq=seq, limit=limit)


def cancel(tx: Tx, job_id: JobId) -> Job:
    """Cancel at once if nobody works on it, otherwise ask the worker to stop (its next heartbeat brings the wish).

    Cancelling again is fine; cancelling what is over is not.

    Raises:
        NotFound: there is no such job.
        IllegalTransition: it succeeded or failed already.
    """
    job = repository.locked(tx, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    status = JobStatus(job.status)
    if status is JobStatus.CANCELLED:
        return job
    check_transition(job_id, status, JobStatus.CANCELLED)
    if job.desired_state != DesiredState.CANCEL:
        job.desired_state = DesiredState.CANCEL
        _tell(tx, job, "job.cancel_requested", "Cancel requested.")
    if status is JobStatus.QUEUED:
        _end(tx, job, JobStatus.CANCELLED, "job.cancelled", "Job cancelled before it started.")
    tx.flush()
    return job


def offer(tx: Tx) -> list[JobId]:
    """Put a message in the outbox for as many waiting jobs as there are workers free for them.

    Late binding: what is not offered yet can still be cancelled or re-ordered at no cost.
    """
    travelling = repository.travelling_count(tx, offer_again_after=OFFER_AGAIN_AFTER)
    free = workers.idle_count(tx) - travelling
    if free <= 0:
        return []
    offered = repository.to_offer(tx, limit=free, offer_again_after=OFFER_AGAIN_AFTER)
    for job in offered:
        job.offered_at = database_now()
        outbox.put(tx, outbox.JOB_OFFERED, {"job_id": job.id})
    return [job.id for job in offered]


def claim(tx: Tx, job_id: JobId, *, worker: str, ttl: timedelta) -> Lease | None:
    """The lease on the job, or None: somebody else has it, it is over, or it waits. See leases.claim."""
    lease = leases.claim(tx, job_id, worker=worker, ttl=ttl)
    if lease is not None:
        job = leases.held(tx, lease)
        _tell(tx, job, "job.started", f"Attempt {lease.attempt} started on {worker}.", attempt=lease.attempt)
    return lease


def record(tx: Tx, lease: Lease, line: Line) -> None:
    """A line from the engine becomes part of the job's history.

    Finished and Failed are not history yet: `finish` and `fail` decide what becomes of them.
    """
    job = leases.held(tx, lease)
    match line:
        case StageStarted():
            job.stage = line.stage
            job.progress = {"stage": line.stage, "done": 0, "total": 0, "eta_s": None}
            _tell(tx, job, "stage.started", f"{line.stage.capitalize()}.", **line.model_dump(mode="json"))
        case StageFinished():
            how = "taken from an earlier attempt" if line.resumed else f"finished in {line.wall_s:.1f} s"
            _tell(tx, job, "stage.finished", f"{line.stage.capitalize()} {how}.", **line.model_dump(mode="json"))
        case Progress():
            facts = line.model_dump(mode="json", exclude={"type"})
            job.progress = {name: facts[name] for name in ("stage", "done", "total", "eta_s")}
            message = f"{line.stage.capitalize()}: {line.done}/{line.total}"
            repository.add_event(tx, job, type_="metrics", message=message, data={"event": "progress", **facts})
        case Note():
            data = {"event": "note"}
            repository.add_event(tx, job, type_="message", level=line.level, message=line.message, data=data)
        case Finished() | Failed():
            pass
        case _:
            assert_never(line)


def keep_checkpoint(tx: Tx, lease: Lease, *, stage: str, prefix: str, files: list[str]) -> None:
    """A finished stage is in the object store; the next attempt may start from it."""
    leases.held(tx, lease)
    repository.put_checkpoint(tx, lease.job_id, stage=stage, attempt=lease.attempt, prefix=prefix, files=files)


def finish(tx: Tx, lease: Lease, *, result: str) -> None:
    """The job succeeded; `result` names what was published in this same transaction.

    Raises:
        LeaseLost: and with it goes the publication: exactly one attempt publishes.
    """
    job = leases.held(tx, lease)
    repository.end_attempt(tx, job.id, lease.attempt, outcome=JobStatus.SUCCEEDED)
    _end(tx, job, JobStatus.SUCCEEDED, "job.succeeded", f"Published as {result}.", result=result)


def fail(tx: Tx, lease: Lease, failure: Failed) -> JobStatus:
    """The attempt failed: try again if the class of failure has budget left, otherwise the job has failed.

    A job that people want cancelled is not tried again.
    """
    return _attempt_failed(tx, leases.held(tx, lease), failure)


def stopped(tx: Tx, lease: Lease) -> JobStatus:
    """The engine stopped because it was asked to: cancelled, or the worker is going away and another takes over."""
    job = leases.held(tx, lease)
    if job.desired_state == DesiredState.CANCEL:
        repository.end_attempt(tx, job.id, lease.attempt, outcome=JobStatus.CANCELLED)
        _end(tx, job, JobStatus.CANCELLED, "job.cancelled", "Job cancelled.")
        return JobStatus.CANCELLED
    going_away = Failed(failure=FailureClass.YIELD, code="worker_stopped", message="The worker was asked to stop.")
    return _attempt_failed(tx, job, going_away)


def reap(tx: Tx, *, limit: int = 100) -> list[JobId]:
    """Attempts whose worker went silent end here, and their jobs wait again (or fail, or are cancelled)."""
    reaped = repository.lapsed(tx, limit=limit)
    for job in reaped:
        silent = Failed(
            failure=FailureClass.INFRA,
            code="lease_expired",
            message=f"Worker {job.lease_worker} stopped reporting.",
        )
        _attempt_failed(tx, job, silent)
    return [job.id for job in reaped]


def status_counts(tx: Tx) -> dict[str, int]:
    return repository.count_by_status(tx)


def page(
    tx: Tx, *, project: ProjectId, limit: int, after: JobId | None = None, statuses: Sequence[JobStatus] = ()
) -> list[Job]:
    return repository.page(tx, project=project, limit=limit, after=after, statuses=statuses)


def _attempt_failed(tx: Tx, job: Job, failure: Failed) -> JobStatus:
    earlier = [a.outcome for a in repository.attempts(tx, job.id) if a.outcome and a.number < job.attempt_no]
    repository.end_attempt(
        tx, job.id, job.attempt_no, outcome=failure.failure, code=failure.code, message=failure.message
    )
    if job.desired_state == DesiredState.CANCEL:
        _end(tx, job, JobStatus.CANCELLED, "job.cancelled", "Job cancelled.")
        return JobStatus.CANCELLED
    delay = retry_delay(failure.failure, earlier)
    if delay is None:
        job.reason_code, job.reason_message = failure.code, failure.message
        _end(tx, job, JobStatus.FAILED, "job.failed", failure.message, level="error", code=failure.code)
        return JobStatus.FAILED
    _release(job, JobStatus.QUEUED)
    job.not_before = database_now() + delay
    _tell(
        tx, job, "job.requeued", f"{failure.message} Trying again from the last finished stage.",
        level="warn", code=failure.code, attempt=job.attempt_no,
    )  # fmt: skip
    return JobStatus.QUEUED


def _end(tx: Tx, job: Job, status: JobStatus, event: str, message: str, *, level: str = "info", **data: str) -> None:
    assert status in TERMINAL
    _release(job, status)
    job.finished_at = database_now()
    _tell(tx, job, event, message, level=level, **data)


def _release(job: Job, status: JobStatus) -> None:
    check_transition(job.id, JobStatus(job.status), status)
    job.status = status
    job.lease_token = job.lease_worker = job.lease_expires_at = job.offered_at = None


def _tell(tx: Tx, job: Job, event: str, message: str, *, level: str = "info", **data: object) -> None:
    repository.add_event(tx, job, type_="message", level=level, message=message, data={"event": event, **data})


def _unusable_files(tx: Tx, spec: JobSpec, project: ProjectId) -> list[Problem]:
    """Files that do not exist, or that were uploaded for another purpose and so checked for another shape."""
    named = {
        "/training_file": (spec.training_file, "fine-tune"),
        "/validation_file": (spec.validation_file, "fine-tune"),
    }
    for index, benchmark in enumerate(spec.settings.evaluation.benchmarks):
        pointer = f"/method/{spec.method.type}/evaluation/benchmarks/{index}"
        named[f"{pointer}/file"] = (benchmark.file, "evals")
        if benchmark.fewshot_file is not None:
            named[f"{pointer}/fewshot_file"] = (benchmark.fewshot_file, "evals")

    problems = []
    for pointer, (file_id, purpose) in named.items():
        file = repository.file(tx, FileId(file_id))
        if file is None or file.project_id != project or file.deleted_at is not None:
            detail = f"there is no file {file_id}; upload it to /v1/files"
            problems.append(Problem(pointer=pointer, code="unknown_file", detail=detail))
        elif file.purpose != purpose:
            detail = f"{file_id} was uploaded for the purpose {file.purpose!r}; upload it again for {purpose!r}"
            problems.append(Problem(pointer=pointer, code="wrong_purpose", detail=detail))
    return problems


def _unknown_model(tx: Tx, spec: JobSpec) -> list[Problem]:
    """A local model that no live worker has; without any live worker the job may wait for one that does."""
    path = local_path(spec.model)
    alive = workers.alive(tx)
    if path is None or not alive or any(path in worker.local_models for worker in alive):
        return []
    known = sorted({f"local:{name}" for worker in alive for name in worker.local_models})
    choice = f"they have {', '.join(known)}" if known else "their model folders are empty"
    return [
        Problem(pointer="/model", code="unknown_model", detail=f"no live worker has {spec.model}; {choice}"),
    ]
