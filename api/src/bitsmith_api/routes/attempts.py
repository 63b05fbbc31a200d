"""The attempts at a job."""

from bitsmith_core import jobs
from fastapi import APIRouter

from bitsmith_api.deps import Bounds, PathJobId, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas.attempts import Attempt, AttemptList
from bitsmith_api.schemas.events import event_seq

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])


@router.get(
    "/{job_id}/attempts",
    summary="List a job's attempts",
    dependencies=[require("jobs:read")],
    responses=documented(401, 404, 422, 500, 503),
)
def list_attempts(job_id: PathJobId, bounds: Bounds, tx: Transaction) -> AttemptList:
    """Newest first: which worker tried, how it ended and why, what was seen, what it used."""
    after = checked_cursor(
        bounds.after, lambda text: event_seq(job_id, text) is not None, what="an attempt of this job"
    )
    number = None if after is None else event_seq(job_id, after)
    found = jobs.queries.attempt_page(tx, job_id, limit=bounds.limit + 1, after=number)
    return AttemptList.of([Attempt.of(row) for row in found], limit=bounds.limit)
