"""Jobs that are made of a cluster's objects: which job is whose, what became of objects that went, what pods tell."""

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Integer, func, select, text

from bitsmith_core.db import Tx, database_now
from bitsmith_core.db.models import ClusterJob, Job, Project
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs import repository, service, shares, workers
from bitsmith_core.jobs.attempting import EngineEnd, lose
from bitsmith_core.jobs.states import TERMINAL, DesiredState, JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass


def find(tx: Tx, uids: Collection[str]) -> dict[str, Job]:
    """The job of each object that has one."""
    query = select(ClusterJob.uid, Job).join(Job, Job.id == ClusterJob.job_id).where(ClusterJob.uid.in_(uids))
    return {row.uid: row.Job for row in tx.execute(query)}


def submit(
    tx: Tx,
    spec: JobSpec,
    *,
    uid: str,
    namespace: str,
    name: str,
    project: ProjectId,
    priority: int,
    is_cancelled_with_it: bool,
) -> Job:
    """The object's job, submitted now if it has none yet. Two that submit at once make one job: the second waits for
    the first.

    Raises:
        InvalidSpec: it could not be submitted.
    """
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"k8s/{uid}"})
    known = find(tx, [uid]).get(uid)
    if known is not None:
        return known
    job = service.submit(tx, spec, project=project, priority=priority, submitted_by=f"k8s:{namespace}/{name}")
    tx.add(
        ClusterJob(uid=uid, namespace=namespace, name=name, job_id=job.id, is_cancelled_with_it=is_cancelled_with_it)
    )
    tx.flush()
    return job


def remember_wish(tx: Tx, uid: str, *, is_cancelled_with_it: bool) -> None:
    """What shall become of the job when its object goes."""
    row = tx.get(ClusterJob, uid)
    if row is not None and row.is_cancelled_with_it != is_cancelled_with_it:
        row.is_cancelled_with_it = is_cancelled_with_it
        tx.flush()


def let_go(tx: Tx, *, namespace: str, present: Collection[str], young: timedelta) -> list[JobId]:
    """Objects that are not there any more: their open jobs are cancelled, if people wanted that; answers which.

    Args:
        present: the uids of all objects that the namespace has, from one whole list.
        young: objects that came so short a time ago may be missing from a list that is a little old.
    """
    gone = select(ClusterJob).where(
        ClusterJob.namespace == namespace,
        ClusterJob.gone_at.is_(None),
        ClusterJob.uid.not_in(present),
        ClusterJob.created_at < func.now() - young,
    )
    cancelled = []
    for row in tx.scalars(gone.with_for_update(skip_locked=True)).all():
        row.gone_at = database_now()
        job = service.get(tx, row.job_id)
        if row.is_cancelled_with_it and JobStatus(job.status) not in TERMINAL:
            service.cancel(tx, job.id)
            cancelled.append(job.id)
    tx.flush()
    return cancelled


def waiting(tx: Tx, *, but_for: Collection[str]) -> dict[str, int]:
    """By pool, without zeros: jobs that could start now, less those that idle workers of the pool will take.

    No more of a project than may run. Where it waits for several pools, each of them counts up to that limit: nobody
    knows whose worker is free first.

    Args:
        but_for: names of workers who are not counted as idle: whoever asks has an eye on them.
    """
    could_start = (Job.status == JobStatus.QUEUED) & (Job.desired_state == DesiredState.RUN)
    queued = func.count().filter(could_start, Job.not_before <= func.now())
    running = func.count().filter(Job.status == JobStatus.RUNNING)
    query = (
        select(
            Job.pool,
            queued,
            func.sum(running).over(partition_by=Project.id),
            Project.limits[shares.RUNNING_LIMIT].astext.cast(Integer),
        )
        .join(Project, Project.id == Job.project_id)
        .where(Job.status.in_((JobStatus.QUEUED, JobStatus.RUNNING)))
        .group_by(Project.id, Job.pool)
    )
    counts: Counter[str] = Counter()
    for pool, n, at_work, most in tx.execute(query):
        counts[pool] += n if most is None else min(n, max(0, most - int(at_work)))
    counts.subtract(workers.idle_counts(tx, but_for=but_for))
    return dict(+counts)


def worker_lost(
    tx: Tx, worker: str, *, at: datetime, failure: FailureClass, code: str, message: str, evidence: dict[str, Any]
) -> JobId | None:
    """The process of that worker ended at that time: the attempt that it was at ends now, not with its lease.

    Returns:
        Whose attempt it was; None: it had none, or one that began later.
    """
    job = repository.held_by(tx, worker)
    if job is None or repository.attempt(tx, job.id, job.attempt_no).started_at > at:
        return None
    lose(tx, job, Failed(failure=failure, code=code, message=message), end=EngineEnd(evidence=evidence))
    return job.id
