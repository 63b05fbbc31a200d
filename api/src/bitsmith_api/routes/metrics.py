"""A job's curves."""

from typing import Annotated

from bitsmith_core import jobs
from bitsmith_core.wire import Stage
from fastapi import APIRouter, Query

from bitsmith_api.deps import PathJobId, Transaction, require
from bitsmith_api.errors import InvalidRequest, documented
from bitsmith_api.schemas.attempts import Metrics

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])

MAX_NAMES = 32


@router.get(
    "/{job_id}/metrics",
    summary="Get a job's metrics",
    dependencies=[require("jobs:read")],
    responses=documented(401, 404, 422, 500, 503),
)
def get_metrics(
    job_id: PathJobId,
    tx: Transaction,
    name: Annotated[list[str] | None, Query(description="repeat it for several; all if unset")] = None,
    stage: Annotated[list[Stage] | None, Query(description="repeat it for several")] = None,
    attempt: Annotated[int | None, Query(ge=1, lt=2**31, description="all attempts if unset")] = None,
    max_points: Annotated[int, Query(ge=4, le=10_000, description="of each curve")] = 1000,
) -> Metrics:
    """Curves by attempt, stage and name, in columns. One with more than `max_points` is thinned out: of each stretch of
    steps its lowest and its highest value stay, and the first and the last point, so that no spike is lost.
    """
    names = list(dict.fromkeys(name or ()))
    if len(names) > MAX_NAMES or any(not (0 < len(text) <= 64) or "\0" in text for text in names):
        raise InvalidRequest.at("query name", "bad_name", f"at most {MAX_NAMES} names of 1 to 64 characters")
    found = jobs.queries.metric_series(
        tx, job_id, names=names, stages=stage or (), attempt=attempt, max_points=max_points
    )
    return Metrics.of(job_id, found)
