"""What an attempt measured and what its engine logged, in pieces; never in the job's history."""

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import LogChunk, MetricChunk
from bitsmith_core.ids import JobId
from bitsmith_core.wire import Metrics


def add_metrics(tx: Tx, job_id: JobId, attempt: int, line: Metrics) -> None:
    """Chunks of steps that the attempt went back before are gone; of one that overlaps, the later chunk counts."""
    first = line.steps[0]
    tx.execute(
        delete(MetricChunk).where(
            MetricChunk.job_id == job_id,
            MetricChunk.attempt == attempt,
            MetricChunk.stage == line.stage,
            MetricChunk.first_step >= first,
        )
    )
    tx.add(
        MetricChunk(
            job_id=job_id,
            attempt=attempt,
            stage=line.stage,
            first_step=first,
            last_step=line.steps[-1],
            steps=line.steps,
            columns=line.columns,
        )
    )
    tx.flush()


def add_log(tx: Tx, job_id: JobId, attempt: int, *, number: int, object_key: str, size_bytes: int, lines: int) -> None:
    """Saying it twice is saying it once: the answer to the first time may have been lost."""
    row = insert(LogChunk).values(
        job_id=job_id, attempt=attempt, number=number, object_key=object_key, bytes=size_bytes, lines=lines
    )
    tx.execute(row.on_conflict_do_nothing())


def metrics(tx: Tx, job_id: JobId) -> list[MetricChunk]:
    """In the order in which they were measured."""
    query = select(MetricChunk).where(MetricChunk.job_id == job_id)
    return list(tx.scalars(query.order_by(MetricChunk.attempt, MetricChunk.created_at, MetricChunk.first_step)))


def logs(tx: Tx, job_id: JobId) -> list[LogChunk]:
    query = select(LogChunk).where(LogChunk.job_id == job_id).order_by(LogChunk.attempt, LogChunk.number)
    return list(tx.scalars(query))
