"""What people and the scheduler do with a job: submit, change, pause, resume, cancel, offer.

Every function takes the transaction and never commits. What an attempt says of its job is in `attempting`.
"""

from datetime import timedelta

from bitsmith_core import telemetry
from bitsmith_core.db import Tx, database_now
from bitsmith_core.db.models import File, Job, JobEvent
from bitsmith_core.errors import (
    Conflict,
    IllegalTransition,
    InvalidFile,
    InvalidSpec,
    NotFound,
    PreconditionFailed,
    Problem,
)
from bitsmith_core.ids import FileId, JobId, ProjectId, new_job_id
from bitsmith_core.jobs import history, outbox, repository, shares, workers
from bitsmith_core.jobs.fairness import DEFAULT_POLICY, Policy, choose
from bitsmith_core.jobs.states import TERMINAL, DesiredState, JobStatus, check_transition
from bitsmith_core.pools import DEFAULT_POOL
from bitsmith_core.spec import JobSpec, held_out_count, local_path
from bitsmith_core.telemetry import SpanKind

OFFER_AGAIN_AFTER = timedelta(seconds=15)  # a message is claimed within a second or two, or it is lost


def submit(tx: Tx, spec: JobSpec, *, project: ProjectId, priority: int = 0, submitted_by: str | None = None) -> Job:
    """Queue a job. The one door in: API and operator both come through here.

    Args:
        submitted_by: a key id, or whatever else the audit trail calls an actor.

    Raises:
        InvalidSpec: a file does not exist or is for another purpose, or no live worker of the pool has the local model.
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
        pool=spec.pool,
        labels=dict(spec.metadata),
        priority=priority,
        submitted_by=submitted_by,
        last_seq=0,
    )
    with telemetry.span("job.submit", job_id=job.id):
        job.traceparent = telemetry.traceparent()
        tx.add(job)
        tx.flush()
        history.tell(tx, job, "job.queued", "Job queued.")
        tx.flush()
        tx.refresh(job)
    return job


def check(tx: Tx, spec: JobSpec, *, project: ProjectId) -> None:
    """Whether the spec could be submitted now; writes nothing.

    Raises:
        InvalidSpec: a file does not exist or is for another purpose, or no live worker of the pool has the local model.
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
    job = _locked(tx, job_id)
    status = JobStatus(job.status)
    if status is JobStatus.CANCELLED:
        return job
    check_transition(job_id, status, JobStatus.CANCELLED)
    if job.desired_state != DesiredState.CANCEL:
        job.desired_state = DesiredState.CANCEL
        history.tell(tx, job, "job.cancel_requested", "Cancel requested.")
        job.version += 1
    if status is not JobStatus.RUNNING:
        history.end(tx, job, JobStatus.CANCELLED, "job.cancelled", "Job cancelled while nobody worked on it.")
    tx.flush()
    return job


def pause(tx: Tx, job_id: JobId) -> Job:
    """Pause at once if nobody works on it, otherwise ask the worker to: its engine checkpoints first.

    Pausing again is fine; pausing what is over, or what is being cancelled, is not.

    Raises:
        NotFound: there is no such job.
        IllegalTransition: it is over.
        Conflict: somebody has cancelled it.
    """
    job = _locked(tx, job_id)
    if job.status == JobStatus.PAUSED or job.desired_state == DesiredState.PAUSE:
        return job
    check_transition(job_id, JobStatus(job.status), JobStatus.PAUSED)
    if job.desired_state == DesiredState.CANCEL:
        raise Conflict(f"job {job_id} is being cancelled and cannot be paused")
    job.desired_state = DesiredState.PAUSE
    job.version += 1
    history.tell(tx, job, "job.pause_requested", "Pause requested.")
    if job.status == JobStatus.QUEUED:
        history.pause(tx, job)
    tx.flush()
    return job


def resume(tx: Tx, job_id: JobId) -> Job:
    """Let a paused job wait for a worker again, and go on from its last checkpoint.

    A pause that was asked for and has not happened yet is taken back. Resuming what is not paused is fine until it is
    over.

    Raises:
        NotFound: there is no such job.
        IllegalTransition: it is over.
        Conflict: somebody has cancelled it.
    """
    job = _locked(tx, job_id)
    status = JobStatus(job.status)
    if status in TERMINAL:
        raise IllegalTransition(job_id, status, JobStatus.QUEUED)
    if job.desired_state == DesiredState.CANCEL:
        raise Conflict(f"job {job_id} is being cancelled and cannot be resumed")
    if job.desired_state == DesiredState.RUN:
        return job
    job.desired_state = DesiredState.RUN
    job.version += 1
    if status is JobStatus.PAUSED:
        history.release(job, JobStatus.QUEUED)
        job.not_before = database_now()
    history.tell(tx, job, "job.resumed", "Job resumed.")
    tx.flush()
    return job


def change(tx: Tx, job_id: JobId, *, version: int | None, priority: int | None, labels: dict[str, str] | None) -> Job:
    """Change what may change after submission; None leaves it as it is.

    Args:
        version: of the job as the client saw it; None changes it whatever it is now.

    Raises:
        NotFound: there is no such job.
        PreconditionFailed: the job has another version by now; nothing was changed.
        Conflict: a new priority for a job that is over.
    """
    job = _locked(tx, job_id)
    if version is not None and version != job.version:
        raise PreconditionFailed(
            f"job {job_id} has version {job.version} by now, and the change was meant for {version}; read it again"
        )
    if priority is not None and priority != job.priority:
        if JobStatus(job.status) in TERMINAL:
            raise Conflict(f"job {job_id} is {job.status}; its priority means nothing any more")
        history.tell(tx, job, "job.priority_changed", f"Priority {job.priority} became {priority}.", priority=priority)
    before = (job.priority, job.labels)
    job.priority = job.priority if priority is None else priority
    job.labels = job.labels if labels is None else dict(labels)
    if (job.priority, job.labels) != before:
        job.version += 1
    tx.flush()
    return job


def offer(tx: Tx, *, policy: Policy = DEFAULT_POLICY) -> list[JobId]:
    """Put a message in the outbox for as many waiting jobs of each pool as there are workers free for them.

    Late binding: what is not offered yet can still be cancelled or re-ordered at no cost.
    """
    idle = workers.idle_counts(tx)
    if not idle:  # the usual case, twice a second: nothing else is looked at
        return []
    travelling = shares.travelling_counts(tx, idle, offer_again_after=OFFER_AGAIN_AFTER)
    free = {pool: count - travelling.get(pool, 0) for pool, count in idle.items() if count > travelling.get(pool, 0)}
    if not free:
        return []
    waiting = shares.waiting(tx, free=free, offer_again_after=OFFER_AGAIN_AFTER)
    if not waiting:
        return []
    standing = shares.shares(tx, offer_again_after=OFFER_AGAIN_AFTER, max_running=policy.max_running)
    chosen = choose(waiting, standing, free=free, entry_penalty_s=policy.entry_penalty_s)

    held = shares.locked_to_offer(tx, chosen, offer_again_after=OFFER_AGAIN_AFTER)
    offered = [held[job_id] for job_id in chosen if job_id in held]
    for job in offered:
        if job.offered_at is None:  # a lost message is not paid for twice
            shares.penalise(tx, job.project_id, policy.entry_penalty_s)
        job.offered_at = database_now()
        with telemetry.span("job.offer", parent=job.traceparent, kind=SpanKind.PRODUCER, job_id=job.id):
            outbox.put(
                tx, outbox.JOB_OFFERED, {"job_id": job.id, "traceparent": telemetry.traceparent(), "pool": job.pool}
            )
    tx.flush()
    return [job.id for job in offered]


def sample_usage(tx: Tx, *, policy: Policy = DEFAULT_POLICY) -> None:
    """Let projects' old usage decay and add what runs now; the more often, the fairer."""
    shares.sample(tx, half_life=policy.half_life)


def _locked(tx: Tx, job_id: JobId) -> Job:
    job = repository.locked(tx, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def _unusable_files(tx: Tx, spec: JobSpec, project: ProjectId) -> list[Problem]:
    """Files that do not exist, or that were uploaded for another purpose and so checked for another shape."""
    data = {"/training_file": spec.training_file, "/validation_file": spec.validation_file}
    named = {pointer: (file_id, "fine-tune") for pointer, file_id in data.items() if file_id is not None}
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
        elif pointer == "/training_file" and spec.validation_file is None:
            problems += _too_few_to_hold_out(file)
    return problems


def _too_few_to_hold_out(training: File) -> list[Problem]:
    try:
        held_out_count(training.examples)
    except InvalidFile as error:
        return [Problem(pointer="/training_file", code="too_few_examples", detail=str(error))]
    return []


def _unknown_model(tx: Tx, spec: JobSpec) -> list[Problem]:
    """A local model that no live worker of the pool has; where none lives the job may wait for one that does."""
    path = local_path(spec.model)
    alive = [worker for worker in workers.alive(tx) if worker.pool == spec.pool]
    if not spec.needs_base or path is None or not alive or any(path in worker.local_models for worker in alive):
        return []
    known = sorted({f"local:{name}" for worker in alive for name in worker.local_models})
    choice = f"they have {', '.join(known)}" if known else "their model folders are empty"
    whose = "" if spec.pool == DEFAULT_POOL else f" of the pool {spec.pool}"
    return [
        Problem(pointer="/model", code="unknown_model", detail=f"no live worker{whose} has {spec.model}; {choice}"),
    ]
