"""Figures about all jobs, for whoever watches the installation: asked for every few seconds, by machines."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Double, cast, func, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from bitsmith_core import estimate
from bitsmith_core.bundle import Manifest
from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, File, Job, MetricChunk, Version
from bitsmith_core.estimate import DataFacts, WorkerFacts
from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.jobs.leases import device_seconds
from bitsmith_core.jobs.states import JobStatus
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Stage

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


def attempts_ended(tx: Tx) -> list[Ended]:
    query = select(Attempt.outcome, func.coalesce(Attempt.reason_code, ""), func.count()).where(
        Attempt.outcome.is_not(None)
    )
    rows = tx.execute(query.group_by(Attempt.outcome, Attempt.reason_code))
    return [Ended(outcome=str(outcome), reason=reason, count=count) for outcome, reason, count in rows]


def gpu_seconds(tx: Tx) -> dict[ProjectId, float]:
    """Used so far by each project, with what is running now."""
    running = Attempt.ended_at.is_(None)
    used = func.sum(Attempt.gpu_seconds).filter(~running), func.sum(device_seconds(func.now())).filter(running)
    query = select(Job.project_id, *used).join(Job, Job.id == Attempt.job_id).group_by(Job.project_id)
    return {project: float(ended or 0) + float(now or 0) for project, ended, now in tx.execute(query)}


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
