"""What was used: GPU time by project, base model and key, over time. Read from the attempts, which are the truth.

An attempt that runs across the end of a bucket counts in both, each with its part of the time. One that still runs
counts as far as it has come, and so the last bucket grows from one question to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import Integer, and_, case, func, null, or_, select

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Attempt, Job
from bitsmith_core.ids import ProjectId


class Grouping(StrEnum):
    PROJECT = "project"
    MODEL = "model"  # the base
    KEY = "key"  # whoever submitted the job


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """By one group in one bucket. What is not grouped by is None."""

    project: ProjectId | None
    model: str | None
    key: str | None  # also None for jobs that no key submitted
    gpu_seconds: float
    attempts: int
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    start: datetime
    end: datetime
    used: list[Used]  # the most first


_COLUMNS: dict[Grouping, Any] = {
    Grouping.PROJECT: Job.project_id,
    Grouping.MODEL: Job.base_model,
    Grouping.KEY: Job.submitted_by,
}


def used(
    tx: Tx,
    *,
    start: datetime,
    end: datetime,
    width: timedelta,
    group_by: Sequence[Grouping] = (),
    project: ProjectId | None,
) -> list[Bucket]:
    """Every bucket from start to end, empty ones too.

    Args:
        end: excluded; the last bucket ends there even if it is shorter than the others.
        project: None: all of them.
    """
    starts = [start + number * width for number in range(-((start - end) // width))]
    bucket = func.unnest(starts).table_valued("start", name="bucket").render_derived()
    bucket_start = bucket.c.start
    bucket_end = func.least(bucket_start + width, end)

    # A running attempt has used its time so far, times its devices; an ended one knows what it used.
    until = func.coalesce(Attempt.ended_at, func.now())
    whole_s = func.extract("epoch", until - Attempt.started_at)
    devices = func.coalesce(Attempt.evidence["devices"].astext.cast(Integer), 1)
    rate = case(
        (Attempt.ended_at.is_(None), devices),
        else_=func.coalesce(Attempt.gpu_seconds / func.nullif(whole_s, 0), 0),
    )
    overlap_s = func.extract("epoch", func.least(until, bucket_end) - func.greatest(Attempt.started_at, bucket_start))

    asked = [_COLUMNS[grouping] for grouping in Grouping if grouping in group_by]
    groups = [_COLUMNS[grouping] if grouping in group_by else null() for grouping in Grouping]
    amount = func.sum(overlap_s * rate)
    query = (
        select(bucket_start, *groups, amount, func.count(), func.count(Job.id.distinct()))
        .select_from(Attempt)
        .join(Job, Job.id == Attempt.job_id)
        .join(bucket, and_(Attempt.started_at < bucket_end, until > bucket_start))
        .where(Attempt.started_at < end, or_(Attempt.ended_at.is_(None), Attempt.ended_at > start))
        .group_by(bucket_start, *asked)
        .order_by(bucket_start, amount.desc())
    )
    if project is not None:
        query = query.where(Job.project_id == project)
    rows = {when: list(of_bucket) for when, of_bucket in groupby(tx.execute(query), key=lambda row: row[0])}
    return [
        Bucket(start=when, end=min(when + width, end), used=[_used(row[1:]) for row in rows.get(when, [])])
        for when in starts
    ]


def _used(row: Sequence[Any]) -> Used:
    project, model, key, gpu_seconds, attempts, jobs = row
    return Used(project=project, model=model, key=key, gpu_seconds=float(gpu_seconds), attempts=attempts, jobs=jobs)
