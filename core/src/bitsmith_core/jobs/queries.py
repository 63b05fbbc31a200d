"""What people ask about jobs: pages with filters, places in the queue, curves, logs. Reads only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, pairwise
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, func, select

from bitsmith_core import pools
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, Checkpoint, File, Job, LogChunk, MetricChunk
from bitsmith_core.ids import CheckpointId, FileId, JobId, ProjectId
from bitsmith_core.jobs import shares, workers
from bitsmith_core.jobs.fairness import DEFAULT_POLICY, Rivals, place
from bitsmith_core.jobs.series import Curve, Point
from bitsmith_core.jobs.states import JobStatus
from bitsmith_core.wire import Stage

NEAREST = 10  # jobs ahead that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Empty: every job."""

    statuses: Sequence[JobStatus] = ()
    models: Sequence[str] = ()
    priorities: Sequence[int] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    has_no_labels: bool = False
    created_from: datetime | None = None
    created_until: datetime | None = None  # included


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Part of a list, in the list's order."""

    jobs: list[Job]
    has_more: bool  # in the direction that was read


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    position: int  # 1: the next of its pool to start
    ahead: list[JobId]  # the nearest of the same project and pool
    obstacle: str | None = None  # why it does not start though it be the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What one attempt measured of one thing in one stage."""

    attempt: int
    stage: str
    name: str
    total: int  # points measured
    points: list[Point]  # those that are left of them


def page(
    tx: Tx,
    *,
    project: ProjectId,
    limit: int,
    wanted: JobFilter,
    after: JobId | None = None,
    before: JobId | None = None,
    is_newest_first: bool = True,
) -> Slice:
    """Ids sort by time, so they are the cursors: after one the list goes on, before one it ends."""
    query = select(Job).where(Job.project_id == project, *_conditions(wanted))
    reads_backwards = before is not None and after is None
    for cursor, is_upper in ((after, is_newest_first), (before, not is_newest_first)):
        if cursor is not None:
            query = query.where(Job.id < cursor if is_upper else Job.id > cursor)
    is_descending = is_newest_first != reads_backwards
    found = list(tx.scalars(query.order_by(Job.id.desc() if is_descending else Job.id).limit(limit + 1)))
    rows = found[:limit]
    return Slice(jobs=rows[::-1] if reads_backwards else rows, has_more=len(found) > limit)


def _conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.statuses:
        conditions.append(Job.status.in_(wanted.statuses))
    if wanted.models:
        conditions.append(Job.base_model.in_(wanted.models))
    if wanted.priorities:
        conditions.append(Job.priority.in_(wanted.priorities))
    if wanted.labels:
        conditions.append(Job.labels.contains(dict(wanted.labels)))
    if wanted.has_no_labels:
        conditions.append(Job.labels == {})
    if wanted.created_from is not None:
        conditions.append(Job.created_at >= wanted.created_from)
    if wanted.created_until is not None:
        conditions.append(Job.created_at <= wanted.created_until)
    return conditions


def queue_places(tx: Tx, jobs: Iterable[Job]) -> dict[JobId, QueuePlace]:
    """Where the waiting ones among these jobs stand in their pools, as of now: others' priorities and shares may move
    them.

    Those that wait for their back-off or for their project's turn come behind all whose turn can be foreseen.
    """
    wanted = [job.id for job in jobs if job.status == JobStatus.QUEUED]
    if not wanted:
        return {}
    ranks = shares.ranks(tx, wanted, nearest=NEAREST)
    older = shares.older(tx, wanted)
    classes = shares.classes(tx, {rank.pool for rank in ranks.values()})
    standing = shares.shares(tx, offer_again_after=timedelta(0), max_running=None)
    live_pools = workers.live_pools(tx)

    starting = {
        pool: {project: int(min(sum(of.values()), standing[project].room)) for project, of in of_project.items()}
        for pool, of_project in classes.items()
    }
    places = {}
    for job_id, rank in ranks.items():
        rivals = {
            project: Rivals(
                higher=sum(size for each, size in of_class.items() if each > rank.job_class),
                equal=of_class.get(rank.job_class, 0),
                older=older.get((job_id, project), 0),
            )
            for project, of_class in classes[rank.pool].items()
            if project != rank.project
        }
        penalty_s = DEFAULT_POLICY.entry_penalty_s
        position = None
        if rank.is_ready:
            position = place(rank.project, rank.before, rivals, standing, entry_penalty_s=penalty_s)
        if position is None:
            others = sum(count for project, count in starting[rank.pool].items() if project != rank.project)
            position = others + rank.before + 1
        places[job_id] = QueuePlace(position=position, ahead=rank.ahead, obstacle=pools.absent(rank.pool, live_pools))
    return places


def last_attempts(tx: Tx, job_ids: Sequence[JobId]) -> dict[JobId, Attempt]:
    """The newest attempt at each of these jobs that had one."""
    newest = (
        select(Attempt.job_id, func.max(Attempt.number).label("number"))
        .where(Attempt.job_id.in_(job_ids))
        .group_by(Attempt.job_id)
        .subquery()
    )
    query = select(Attempt).join(newest, (Attempt.job_id == newest.c.job_id) & (Attempt.number == newest.c.number))
    return {attempt.job_id: attempt for attempt in tx.scalars(query)}


def attempt_page(tx: Tx, job_id: JobId, *, limit: int, after: int | None) -> list[Attempt]:
    """Newest first; the cursor is the last number seen."""
    query = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number.desc()).limit(limit)
    if after is not None:
        query = query.where(Attempt.number < after)
    return list(tx.scalars(query))


def checkpoint_page(tx: Tx, job_id: JobId, *, limit: int, after: CheckpointId | None) -> list[Checkpoint]:
    """Newest first; ids sort by time, so the cursor is the last id seen."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc()).limit(limit)
    if after is not None:
        query = query.where(Checkpoint.id < after)
    return list(tx.scalars(query))


def log_chunks(tx: Tx, job_id: JobId, *, attempt: int | None = None, after: int = -1) -> list[LogChunk]:
    """An attempt's pieces of log in order, the newest attempt's if none is named; only those after number `after`."""
    query = select(LogChunk).where(LogChunk.job_id == job_id, LogChunk.number > after).order_by(LogChunk.number)
    if attempt is None:
        attempt = tx.scalar(select(func.max(LogChunk.attempt)).where(LogChunk.job_id == job_id))
    return list(tx.scalars(query.where(LogChunk.attempt == attempt)))


def metric_series(
    tx: Tx,
    job_id: JobId,
    *,
    names: Sequence[str] = (),
    stages: Sequence[str] = (),
    attempt: int | None = None,
    max_points: int,
) -> list[Series]:
    """Curves by attempt, stage and name, each thinned out to max_points (see bitsmith_core.jobs.series).

    Args:
        names: of what was measured; all of it if empty.
    """
    conditions: list[ColumnElement[bool]] = [MetricChunk.job_id == job_id]
    if stages:
        conditions.append(MetricChunk.stage.in_(stages))
    if attempt is not None:
        conditions.append(MetricChunk.attempt == attempt)
    spans = {
        (number, stage): (first, last)
        for number, stage, first, last in tx.execute(
            select(
                MetricChunk.attempt,
                MetricChunk.stage,
                func.min(MetricChunk.first_step),
                func.max(MetricChunk.last_step),
            )
            .where(*conditions)
            .group_by(MetricChunk.attempt, MetricChunk.stage)
        )
    }
    curves: dict[tuple[int, str, str], Curve] = {}
    chunks = select(
        MetricChunk.attempt, MetricChunk.stage, MetricChunk.first_step, MetricChunk.steps, MetricChunk.columns
    ).where(*conditions)
    order = (MetricChunk.attempt, MetricChunk.created_at, MetricChunk.first_step)
    rows = tx.execute(chunks.order_by(*order).execution_options(yield_per=100))
    for chunk, coming in pairwise(chain(rows, [None])):
        assert chunk is not None
        number, stage, _, steps, columns = chunk
        is_continued = coming is not None and coming[:2] == (number, stage)
        end = coming.first_step if coming is not None and is_continued else None
        for name in names or columns:
            curve = curves.setdefault((number, stage, name), Curve(*spans[number, stage], max_points))
            _add(curve, steps, columns.get(name), end=end)
    return [
        Series(attempt=number, stage=stage, name=name, total=curve.total, points=curve.points())
        for (number, stage, name), curve in curves.items()
        if curve.total
    ]


def _add(curve: Curve, steps: Sequence[int], values: Sequence[Any] | None, *, end: int | None) -> None:
    """
    Args:
        end: the step that the next chunk begins with; what this one says of it and of later steps was repeated.
    """
    if values is None:
        return
    for step, value in zip(steps, values, strict=True):
        if value is not None and (end is None or step < end):
            curve.add(Point(step, value))


def examples_in(tx: Tx, file_id: FileId, *, project: ProjectId) -> tuple[int, int]:
    """(records, bytes) of the project's file; zeros if there is no such file, which `check` says better."""
    file = tx.get(File, file_id)
    if file is None or file.project_id != project or file.deleted_at is not None:
        return 0, 0
    return file.examples, file.bytes


def measured_speed(tx: Tx, base_model: str, *, project: ProjectId) -> float | None:
    """Tokens a second in the newest training on this base; None if none was measured."""
    query = (
        select(MetricChunk.columns["tokens_per_s"])
        .join(Job, Job.id == MetricChunk.job_id)
        .where(Job.project_id == project, Job.base_model == base_model, MetricChunk.stage == Stage.TRAINING)
        .order_by(Job.id.desc(), MetricChunk.created_at.desc())
        .limit(1)
    )
    values = [value for value in tx.scalar(query) or [] if value]
    return median(values) if values else None
