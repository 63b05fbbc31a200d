"""SQL of fair share: what projects used, who waits in which of them."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Integer, and_, case, func, literal, or_, select, text, tuple_, update

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, Job, Project
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs.fairness import Share, Waiting
from bitsmith_core.jobs.states import JobStatus
from bitsmith_core.wire import FailureClass

_NEGLIGIBLE_S = 0.001
RUNNING_LIMIT = "running_jobs"  # in a project's limits

_SAMPLE = text(
    """
    WITH running AS MATERIALIZED (  -- first, whatever the planner believes of how many there are
        SELECT jobs.project_id, attempts.started_at, coalesce((attempts.evidence->>'devices')::int, 1) AS devices
        FROM jobs JOIN attempts ON attempts.job_id = jobs.id AND attempts.number = jobs.attempt_no
        WHERE jobs.status = 'running'
    )
    UPDATE projects SET charge = sampled.charge, charged_at = now()
    FROM (
        SELECT projects.id,
               projects.charge * exp(-ln(2) * extract(epoch FROM now() - projects.charged_at) / :half_life_s)
               + coalesce(sum(
                     extract(epoch FROM now() - greatest(projects.charged_at, running.started_at)) * running.devices
                 ), 0) AS charge
        FROM projects LEFT JOIN running ON running.project_id = projects.id
        GROUP BY projects.id
    ) AS sampled
    WHERE projects.id = sampled.id AND (projects.charge > 0 OR sampled.charge > 0)
    """
)


JobClass = tuple[int, bool]
"""A priority, and whether the job gave its worker back; the greater goes first, whatever its project used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Where a waiting job stands among those of its own project that wait for the same pool."""

    project: ProjectId
    pool: str
    job_class: JobClass
    is_ready: bool  # its back-off is over
    before: int  # of these, this many go before it
    ahead: list[JobId]  # the nearest of those, the next one last


def sample(tx: Tx, *, half_life: timedelta) -> None:
    """Let old usage decay and add what ran since the last sample. Sampling twice at once counts nothing twice."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('bitsmith.shares', 0))"))
    tx.execute(_SAMPLE, {"half_life_s": half_life.total_seconds()})
    tx.execute(update(Project).where(Project.charge < _NEGLIGIBLE_S, Project.charge > 0).values(charge=0))


def penalise(tx: Tx, project: ProjectId, seconds: float) -> None:
    tx.execute(update(Project).where(Project.id == project).values(charge=Project.charge + seconds))


def shares(tx: Tx, *, offer_again_after: timedelta, max_running: int | None) -> dict[ProjectId, Share]:
    """Every project with a job that waits, runs or travels."""
    travels = (Job.status == JobStatus.QUEUED) & (Job.offered_at >= func.now() - offer_again_after)
    taken = func.count().filter(or_(Job.status == JobStatus.RUNNING, travels))
    query = (
        select(Project.id, Project.charge, Project.weight, Project.limits[RUNNING_LIMIT].astext.cast(Integer), taken)
        .join(Job, Job.project_id == Project.id)
        .where(Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]))
        .group_by(Project.id)
    )
    return {
        project: Share(
            usage_s=charge, weight=weight, running=running, max_running=max_running if limit is None else limit
        )
        for project, charge, weight, limit, running in tx.execute(query)
    }


def waiting(tx: Tx, *, free: Mapping[str, int], offer_again_after: timedelta) -> list[Waiting]:
    """The first few of each project and pool that no message travels for.

    An offer that nobody claimed in time counts as lost: the broker may have been flushed.

    Args:
        free: how many workers of a pool could take one; other pools' jobs are not looked at.
    """
    place = func.row_number().over(partition_by=[Job.project_id, Job.pool], order_by=_turn())
    ranked = (
        select(
            Job.id,
            Job.project_id,
            Job.priority,
            _has_yielded().label("has_yielded"),
            Job.created_at,
            Job.pool,
            place.label("place"),
        )
        .where(*_is_to_offer(offer_again_after), Job.pool.in_(free))
        .subquery()
    )
    rows = tx.execute(select(ranked).where(ranked.c.place <= max(free.values(), default=0)))
    return [
        Waiting(job_id=id_, project=project, priority=priority, has_yielded=yielded, created_at=created_at, pool=pool)
        for id_, project, priority, yielded, created_at, pool, _ in rows
    ]


def ranks(tx: Tx, job_ids: Collection[JobId], *, nearest: int) -> dict[JobId, Rank]:
    """Where those of the jobs that wait stand among their own project's of their pool, those that are ready first."""
    is_ready = Job.not_before <= func.now()
    own = [Job.project_id, Job.pool]
    turn = [is_ready.desc(), *_turn()]
    waiting = Job.status == JobStatus.QUEUED
    ranked = (
        select(
            Job.id,
            Job.project_id,
            Job.pool,
            Job.priority,
            _has_yielded().label("has_yielded"),
            is_ready.label("is_ready"),
            (func.row_number().over(partition_by=own, order_by=turn) - 1).label("before"),
            func.array_agg(Job.id).over(partition_by=own, order_by=turn, rows=(-nearest, -1)).label("ahead"),
        )
        .where(waiting, Job.project_id.in_(select(Job.project_id).where(Job.id.in_(job_ids))))
        .subquery()
    )
    return {
        id_: Rank(
            project=project,
            pool=pool,
            job_class=(priority, yielded),
            is_ready=ready,
            before=before,
            ahead=list(ahead or ()),
        )
        for id_, project, pool, priority, yielded, ready, before, ahead in tx.execute(
            select(ranked).where(ranked.c.id.in_(job_ids))
        )
    }


def classes(tx: Tx, pools: Collection[str]) -> dict[str, dict[ProjectId, dict[JobClass, int]]]:
    """How many jobs of each of the pools, each project and class are ready."""
    has_yielded = _has_yielded()
    query = (
        select(Job.pool, Job.project_id, Job.priority, has_yielded, func.count())
        .where(Job.status == JobStatus.QUEUED, Job.not_before <= func.now(), Job.pool.in_(pools))
        .group_by(Job.pool, Job.project_id, Job.priority, has_yielded)
    )
    sizes: dict[str, dict[ProjectId, dict[JobClass, int]]] = {pool: defaultdict(dict) for pool in pools}
    for pool, project, priority, yielded, size in tx.execute(query):
        sizes[pool][project][priority, yielded] = size
    return sizes


def older(tx: Tx, job_ids: Collection[JobId]) -> dict[tuple[JobId, ProjectId], int]:
    """For each of the jobs, how many of other projects are ready, in its pool and class and older; without zeros."""
    ready = (
        select(Job.id, Job.project_id, Job.pool, Job.priority, _has_yielded().label("has_yielded"), Job.created_at)
        .where(Job.status == JobStatus.QUEUED, Job.not_before <= func.now())
        .cte()
    )
    mine, other = ready.alias(), ready.alias()
    query = (
        select(mine.c.id, other.c.project_id, func.count())
        .join(
            other,
            and_(
                other.c.project_id != mine.c.project_id,
                other.c.pool == mine.c.pool,
                other.c.priority == mine.c.priority,
                other.c.has_yielded == mine.c.has_yielded,
                tuple_(other.c.created_at, other.c.project_id) < tuple_(mine.c.created_at, mine.c.project_id),
            ),
        )
        .where(mine.c.id.in_(job_ids))
        .group_by(mine.c.id, other.c.project_id)
    )
    return {(job_id, project): count for job_id, project, count in tx.execute(query)}


def locked_to_offer(tx: Tx, job_ids: list[JobId], *, offer_again_after: timedelta) -> dict[JobId, Job]:
    """Those of the jobs that still wait and that nobody else holds."""
    query = select(Job).where(Job.id.in_(job_ids), *_is_to_offer(offer_again_after)).with_for_update(skip_locked=True)
    return {job.id: job for job in tx.scalars(query.execution_options(populate_existing=True))}


def travelling_counts(tx: Tx, pools: Collection[str], *, offer_again_after: timedelta) -> dict[str, int]:
    """Of each of the pools, without zeros: queued jobs whose message is on its way to a worker."""
    query = (
        select(Job.pool, func.count())
        .where(
            Job.status == JobStatus.QUEUED,
            Job.pool.in_(pools),
            Job.offered_at >= func.now() - offer_again_after,
        )
        .group_by(Job.pool)
    )
    return dict(iter(tx.execute(query)))


def _has_yielded() -> ColumnElement[bool]:
    """Whether its last attempt gave its worker back; of a job that waits."""
    last_yielded = (
        select(literal(1))
        .where(Attempt.job_id == Job.id, Attempt.number == Job.attempt_no, Attempt.outcome == FailureClass.YIELD)
        .exists()
    )
    return case((Job.attempt_no == 0, False), else_=last_yielded)


def _turn() -> list[ColumnElement[Any]]:
    """The order within a project."""
    return [Job.priority.desc(), _has_yielded().desc(), Job.created_at.asc(), Job.id.asc()]


def _is_to_offer(offer_again_after: timedelta) -> list[Any]:
    return [
        Job.status == JobStatus.QUEUED,
        Job.not_before <= func.now(),
        or_(Job.offered_at.is_(None), Job.offered_at < func.now() - offer_again_after),
    ]
