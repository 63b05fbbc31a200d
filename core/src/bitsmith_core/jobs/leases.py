"""The lease: the right to write about a job, held by one attempt until it ends or its time runs out.

`claim` hands it out, every later write takes it and fails without it. Time is the
database's, so no worker's clock can steal or keep a job.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Integer, and_, func, or_, select, update

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, Job
from bitsmith_core.errors import LeaseLost
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs import workers
from bitsmith_core.jobs.failures import AVOIDED_WORKER, INFRA_RETRIES
from bitsmith_core.jobs.states import DesiredState, JobStatus
from bitsmith_core.pools import DEFAULT_POOL
from bitsmith_core.wire import FailureClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    job_id: JobId
    project: ProjectId
    token: UUID
    attempt: int
    worker: str

    @property
    def label(self) -> str:
        """This attempt's name among those of its job; no other attempt ever has it."""
        return label_of(self.attempt, self.token)

    @property
    def prefix(self) -> str:
        """Where this attempt may put objects; no other attempt ever writes there."""
        return f"jobs/{self.job_id}/{self.label}"


def label_of(attempt: int, token: UUID) -> str:
    return f"a{attempt}-{token.hex[:8]}"


def claim(tx: Tx, job_id: JobId, *, worker: str, ttl: timedelta, pool: str = DEFAULT_POOL) -> Lease | None:
    """Take the job unless it is over, waits for its back-off, is another pool's, or a live worker has it.

    A draining worker takes nothing, and one on which the job failed for lack of room leaves it to the others of its
    pool, if there are any. One UPDATE decides: the broker may deliver a message twice, and two workers must not both
    win.
    """
    token = uuid4()
    lost = select(func.count()).where(Attempt.job_id == Job.id, Attempt.outcome == FailureClass.INFRA).scalar_subquery()
    # Without budget left, the reaper ends the job.
    lapsed = and_(Job.status == JobStatus.RUNNING, Job.lease_expires_at < func.now(), lost < INFRA_RETRIES)
    waiting = and_(Job.status == JobStatus.QUEUED, Job.not_before <= func.now())
    claimed = tx.execute(
        update(Job)
        .where(
            Job.id == job_id,
            Job.pool == pool,
            Job.desired_state == DesiredState.RUN,
            or_(waiting, lapsed),
            ~workers.is_draining_now(worker),
            or_(
                Job.adjustments[AVOIDED_WORKER].astext.is_distinct_from(worker),
                ~workers.are_others_alive(worker, pool=pool),
            ),
        )
        .values(
            status=JobStatus.RUNNING,
            lease_token=token,
            lease_worker=worker,
            lease_expires_at=func.now() + ttl,
            attempt_no=Job.attempt_no + 1,
            started_at=func.coalesce(Job.started_at, func.now()),
            offered_at=None,
        )
        .returning(Job.attempt_no, Job.project_id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if claimed is None:
        return None
    attempt, project = claimed
    # A lapsed attempt that nobody reaped yet ends here.
    tx.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.ended_at.is_(None))
        .values(
            ended_at=func.now(),
            outcome=FailureClass.INFRA,
            reason_code="lease_expired",
            gpu_seconds=device_seconds(func.now()),
        )
    )
    tx.add(Attempt(job_id=job_id, number=attempt, worker=worker, evidence=workers.described(tx, worker)))
    tx.flush()
    return Lease(job_id=job_id, project=project, token=token, attempt=attempt, worker=worker)


def device_seconds(until: Any) -> ColumnElement[float]:
    """What an attempt used until then: its time, times the devices it was given."""
    devices = func.coalesce(Attempt.evidence["devices"].astext.cast(Integer), 1)
    return func.greatest(0, func.extract("epoch", until - Attempt.started_at)) * devices


def extend(tx: Tx, lease: Lease, *, ttl: timedelta) -> DesiredState:
    """Keep the lease; answers what people want of the job now.

    Raises:
        LeaseLost: stop the engine and write nothing.
    """
    desired = tx.scalar(
        update(Job)
        .where(Job.id == lease.job_id, Job.lease_token == lease.token)
        .values(lease_expires_at=func.now() + ttl)
        .returning(Job.desired_state)
        .execution_options(synchronize_session=False)
    )
    if desired is None:
        raise LeaseLost(lease.job_id, lease.attempt)
    return DesiredState(desired)


def of_worker(tx: Tx, worker: str) -> Lease | None:
    """The live lease of a worker, for the nodes that help it: all they may write with it is that the attempt failed."""
    query = select(Job).where(
        Job.status == JobStatus.RUNNING, Job.lease_worker == worker, Job.lease_expires_at > func.now()
    )
    job = tx.scalar(query.order_by(Job.lease_expires_at.desc()).limit(1))
    if job is None or job.lease_token is None:
        return None
    return Lease(job_id=job.id, project=job.project_id, token=job.lease_token, attempt=job.attempt_no, worker=worker)


def held(tx: Tx, lease: Lease) -> Job:
    """The job, locked for this transaction, if the lease still holds.

    Raises:
        LeaseLost: another attempt owns the job, or it is over.
    """
    query = select(Job).where(Job.id == lease.job_id, Job.lease_token == lease.token).with_for_update()
    job = tx.scalar(query.execution_options(populate_existing=True))  # not what this session saw before the lock
    if job is None:
        raise LeaseLost(lease.job_id, lease.attempt)
    return job
