"""Usage adds up: every second of an attempt is in exactly one bucket, and only of those who used it."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from bitsmith_core import jobs
from bitsmith_core.db import Tx
from bitsmith_core.delivery import usage
from bitsmith_core.delivery.usage import Grouping
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.spec import JobSpec
from sqlalchemy import text

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def attempt(
    tx: Tx,
    job_id: JobId,
    number: int,
    *,
    at: datetime,
    lasts: timedelta | None,
    gpu_seconds: float = 0,
    devices: int = 1,
) -> None:
    tx.execute(
        text(
            "INSERT INTO attempts (job_id, number, worker, started_at, ended_at, gpu_seconds, evidence) "
            "VALUES (:job_id, :number, 'w', :at, :until, :gpu_seconds, "
            "jsonb_build_object('devices', CAST(:devices AS int)))"
        ),
        {
            "job_id": job_id,
            "number": number,
            "at": at,
            "until": None if lasts is None else at + lasts,
            "gpu_seconds": gpu_seconds,
            "devices": devices,
        },
    )


def submit(tx: Tx, spec: JobSpec, **changes: object) -> JobId:
    job = jobs.submit(tx, spec.model_copy(update=changes), project=DEFAULT_PROJECT, submitted_by="key-1")
    return job.id


def total(buckets: list[usage.Bucket]) -> float:
    return sum(used.gpu_seconds for bucket in buckets for used in bucket.used)


@pytest.mark.parametrize("width", [timedelta(minutes=7), HOUR, DAY, timedelta(days=7)])
def test_however_time_is_cut_the_sum_is_the_same(tx: Tx, spec: JobSpec, width: timedelta) -> None:
    job_id = submit(tx, spec)
    attempt(tx, job_id, 1, at=START + timedelta(minutes=13), lasts=timedelta(hours=30), gpu_seconds=4 * 30 * 3600)
    attempt(tx, job_id, 2, at=START + timedelta(hours=40), lasts=timedelta(seconds=100), gpu_seconds=50)
    buckets = usage.used(tx, start=START, end=START + 2 * DAY, width=width, project=DEFAULT_PROJECT)
    assert total(buckets) == pytest.approx(4 * 30 * 3600 + 50)
    assert buckets[0].start == START
    assert buckets[-1].end == START + 2 * DAY
    assert all(earlier.end == later.start for earlier, later in pairwise(buckets))


def test_what_lies_outside_of_the_time_asked_for_does_not_count(tx: Tx, spec: JobSpec) -> None:
    job_id = submit(tx, spec)
    attempt(tx, job_id, 1, at=START - HOUR, lasts=2 * HOUR, gpu_seconds=7200)
    attempt(tx, job_id, 2, at=START + DAY - HOUR, lasts=3 * HOUR, gpu_seconds=3 * 3600)
    attempt(tx, job_id, 3, at=START - DAY, lasts=HOUR, gpu_seconds=3600)
    attempt(tx, job_id, 4, at=START + DAY, lasts=HOUR, gpu_seconds=3600)
    (bucket,) = usage.used(tx, start=START, end=START + DAY, width=DAY, project=DEFAULT_PROJECT)
    (used,) = bucket.used
    assert (round(used.gpu_seconds, 6), used.attempts, used.jobs) == (7200, 2, 1)


def test_what_runs_counts_so_far_times_its_devices(tx: Tx, spec: JobSpec) -> None:
    now = tx.scalar(text("SELECT now()"))
    assert isinstance(now, datetime)
    attempt(tx, submit(tx, spec), 1, at=now - timedelta(seconds=90), lasts=None, devices=8)
    buckets = usage.used(tx, start=now - HOUR, end=now + HOUR, width=HOUR, project=DEFAULT_PROJECT)
    assert [sum(used.gpu_seconds for used in bucket.used) for bucket in buckets] == [pytest.approx(720), 0]


def test_an_attempt_that_took_no_time_used_none(tx: Tx, spec: JobSpec) -> None:
    attempt(tx, submit(tx, spec), 1, at=START + HOUR, lasts=timedelta(0))
    (bucket,) = usage.used(tx, start=START, end=START + DAY, width=DAY, project=DEFAULT_PROJECT)
    assert [used.gpu_seconds for used in bucket.used] == [0]


def test_groups_are_told_apart_the_largest_first(tx: Tx, spec: JobSpec) -> None:
    attempt(tx, submit(tx, spec, model="hf:org/small"), 1, at=START, lasts=HOUR, gpu_seconds=3600)
    attempt(tx, submit(tx, spec, model="hf:org/large"), 1, at=START, lasts=HOUR, gpu_seconds=4 * 3600)
    asked = [Grouping.KEY, Grouping.MODEL, Grouping.PROJECT]
    (bucket,) = usage.used(tx, start=START, end=START + DAY, width=DAY, group_by=asked, project=None)
    assert [(used.project, used.model, used.key, round(used.gpu_seconds, 6)) for used in bucket.used] == [
        (DEFAULT_PROJECT, "hf:org/large", "key-1", 14_400),
        (DEFAULT_PROJECT, "hf:org/small", "key-1", 3600),
    ]


def test_a_short_last_bucket_ends_where_the_question_ends(tx: Tx) -> None:
    buckets = usage.used(tx, start=START, end=START + timedelta(hours=30), width=DAY, project=DEFAULT_PROJECT)
    assert [(bucket.start, bucket.end) for bucket in buckets] == [
        (START, START + DAY),
        (START + DAY, START + timedelta(hours=30)),
    ]
