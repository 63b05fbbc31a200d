"""Figures about all jobs, for whoever watches the installation: asked for every few seconds, by machines."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Double, and_, case, cast, func, literal, or_, select, text, true, union_all
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import InstrumentedAttribute

from bitsmith_core import estimate
from bitsmith_core.bundle import Manifest
from bitsmith_core.db import Tx
from bitsmith_core.db.models import OPEN_STATUSES, Attempt, File, Job, MetricChunk, Tally, Version
from bitsmith_core.estimate import DataFacts, WorkerFacts
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs import workers
from bitsmith_core.jobs.leases import device_seconds
from bitsmith_core.jobs.states import TERMINAL, JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Stage

ATTEMPTS, JOBS = "attempt", "job"  # what is tallied
SETTLED = timedelta(minutes=10)  # no transaction takes that long
LATELY = timedelta(hours=1)
QUANTILES = (0.5, 0.9, 0.99)
COMPARED = 20  # of the newest versions: what was estimated against what was measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Attempts that are over, of one kind."""

    outcome: str
    reason: str  # empty where there was none
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Measured over estimated, of one job; 1 is right, 2 means that it took twice as much."""

    memory: float | None
    training_time: float | None  # None: nothing was trained


@dataclass(frozen=True, slots=True, kw_only=True)
class InPool:
    queued: int
    live: int  # workers


def by_pool(tx: Tx) -> dict[str, InPool]:
    """Of every pool for which a job waits, or that has a live worker."""
    waiting = select(Job.pool, func.count()).where(Job.status == JobStatus.QUEUED).group_by(Job.pool)
    queued = Counter(dict(iter(tx.execute(waiting))))
    live = Counter(worker.pool for worker in workers.alive(tx))
    return {pool: InPool(queued=queued[pool], live=live[pool]) for pool in sorted({*queued, *live})}


def queue_waits(tx: Tx) -> dict[float, float]:
    """Seconds from submission to the first attempt, by quantile, of jobs that were started in the last hour."""
    since = func.now() - LATELY
    wait_s = func.extract("epoch", Attempt.started_at - Job.created_at)
    query = (
        select(func.percentile_cont(cast(list(QUANTILES), ARRAY(Double))).within_group(wait_s))
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Attempt.number == 1,
            Attempt.started_at > since,
            or_(Attempt.ended_at.is_(None), Attempt.ended_at > since),  # true of all of these; there is an index on it
        )
    )
    found = tx.scalar(query)
    return {} if found is None else dict(zip(QUANTILES, map(float, found), strict=True))


def by_status(tx: Tx) -> dict[str, int]:
    """How many jobs there are in each state."""
    until, tallied = _tallied(tx, JOBS)
    is_open = Job.status.in_(OPEN_STATUSES)
    is_over_since = and_(Job.status.in_(TERMINAL), _since(Job.finished_at, until))
    # One statement, so that a job which ends meanwhile counts once.
    rest = union_all(
        *(select(Job.status, func.count()).where(part).group_by(Job.status) for part in (is_open, is_over_since))
    )
    counts = Counter[str]()
    for each in tallied:
        counts[each.outcome] += each.count
    for status, count in tx.execute(rest):
        counts[status] += count
    return counts


def attempts_ended(tx: Tx) -> list[Ended]:
    until, tallied = _tallied(tx, ATTEMPTS)
    reason = func.coalesce(Attempt.reason_code, "")
    since = select(Attempt.outcome, reason, func.count()).where(
        Attempt.outcome.is_not(None), _since(Attempt.ended_at, until)
    )
    counts = Counter[tuple[str, str]]()
    for each in tallied:
        counts[each.outcome, each.reason_code] += each.count
    for outcome, code, count in tx.execute(since.group_by(Attempt.outcome, reason)):
        counts[str(outcome), code] += count
    return [Ended(outcome=outcome, reason=code, count=count) for (outcome, code), count in counts.items()]


def gpu_seconds(tx: Tx) -> dict[ProjectId, float]:
    """Used so far by each project, with what is running now."""
    until, tallied = _tallied(tx, ATTEMPTS)
    is_running = Attempt.ended_at.is_(None)
    used_s = func.sum(case((is_running, device_seconds(func.now())), else_=Attempt.gpu_seconds))
    rest = (
        select(Job.project_id, used_s)
        .join(Job, Job.id == Attempt.job_id)
        .where(or_(is_running, _since(Attempt.ended_at, until)))
        .group_by(Job.project_id)
    )
    total_s: dict[ProjectId, float] = defaultdict(float)
    for each in tallied:
        total_s[each.project_id] += each.gpu_seconds
    for project, seconds in tx.execute(rest):
        total_s[project] += float(seconds)
    return total_s


def tally(tx: Tx) -> None:
    """Count what is over for good. What is not tallied is counted whenever somebody asks: the oftener, the less."""
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('bitsmith.tallies', 0))"))
    # An end is stamped with the start of its transaction, which may commit a little later.
    until = tx.scalar(select(func.now() - SETTLED))
    attempts_until, jobs_until = _tallied(tx, ATTEMPTS)[0], _tallied(tx, JOBS)[0]
    reason = func.coalesce(Attempt.reason_code, "")
    attempts = (
        select(Job.project_id, Attempt.outcome, reason, func.count(), func.sum(Attempt.gpu_seconds))
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.outcome.is_not(None), _since(Attempt.ended_at, attempts_until), Attempt.ended_at <= until)
        .group_by(Job.project_id, Attempt.outcome, reason)
    )
    jobs = (
        select(Job.project_id, Job.status, literal(""), func.count(), literal(0.0))
        .where(Job.status.in_(TERMINAL), _since(Job.finished_at, jobs_until), Job.finished_at <= until)
        .group_by(Job.project_id, Job.status)
    )
    for kind, ended in ((ATTEMPTS, attempts), (JOBS, jobs)):
        rows = [
            {"kind": kind, "project_id": project, "outcome": outcome, "reason_code": code, "count": count,
             "gpu_seconds": seconds, "until": until}
            for project, outcome, code, count, seconds in tx.execute(ended)
        ]  # fmt: skip
        if rows:
            row = insert(Tally)
            more = {name: getattr(Tally, name) + getattr(row.excluded, name) for name in ("count", "gpu_seconds")}
            tx.execute(
                row.on_conflict_do_update(
                    index_elements=[Tally.kind, Tally.project_id, Tally.outcome, Tally.reason_code],
                    set_={**more, "until": row.excluded.until},
                ),
                rows,
            )


def _tallied(tx: Tx, kind: str) -> tuple[datetime | None, Sequence[Any]]:
    """Until when all that ended is in the tallies, and these: one statement, so that both are of one moment."""
    columns = (Tally.project_id, Tally.outcome, Tally.reason_code, Tally.count, Tally.gpu_seconds, Tally.until)
    rows = tx.execute(select(*columns).where(Tally.kind == kind)).all()
    return max((row.until for row in rows), default=None), rows


def _since(ended_at: InstrumentedAttribute[datetime | None], until: datetime | None) -> ColumnElement[bool]:
    return ended_at.is_not(None) if until is None else ended_at > until


def flip_rates(tx: Tx) -> dict[JobId, float]:
    """Of each job that trains: the part of its codes that the last step changed."""
    # The newest chunk begins last: those that begin later go when training goes back (chunks.add_metrics).
    newest = (
        select(MetricChunk.columns["flip_rate"][-1].label("rate"))
        .where(MetricChunk.job_id == Job.id, MetricChunk.attempt == Job.attempt_no, MetricChunk.stage == Stage.TRAINING)
        .order_by(MetricChunk.first_step.desc())
        .limit(1)
        .lateral()
    )
    query = select(Job.id, newest.c.rate).join(newest, true()).where(Job.status == JobStatus.RUNNING)
    return {job_id: float(rate) for job_id, rate in tx.execute(query) if rate is not None}


def estimate_accuracy(tx: Tx) -> list[Accuracy]:
    """Of the newest versions, newest first: were their jobs told rightly what they would take?"""
    query = (
        select(Version.manifest, Job.spec, File.examples, File.bytes)
        .join(Job, Job.id == Version.job_id)
        .join(File, File.id == Job.training_file)
        .order_by(Version.id.desc())
        .limit(COMPARED)
    )
    return list(_accuracies(tx.execute(query)))


def _accuracies(rows: Any) -> Iterator[Accuracy]:
    for manifest, spec, examples, size_bytes in rows:
        try:
            found = _accuracy(Manifest.model_validate(manifest), JobSpec.model_validate(spec), examples, size_bytes)
        except ValidationError:  # an older release wrote it
            continue
        if found is not None:
            yield found


def _accuracy(manifest: Manifest, spec: JobSpec, examples: int, size_bytes: int) -> Accuracy | None:
    model = None if manifest.quantization is None else estimate.facts_of(manifest.quantization)
    if model is None:
        return None
    device: estimate.Device = "cuda" if manifest.environment.device.startswith("cuda") else "cpu"
    told = estimate.estimate(spec, model, DataFacts(examples=examples, bytes=size_bytes), WorkerFacts(device=device))
    peak_bytes = max((stage.peak_memory_bytes for stage in manifest.stages), default=0)
    training_s = sum(stage.wall_s for stage in manifest.stages if stage.stage == Stage.TRAINING)
    return Accuracy(
        memory=peak_bytes / told.peak.bytes if peak_bytes else None,
        training_time=training_s / told.training_s if training_s and told.training_s else None,
    )
