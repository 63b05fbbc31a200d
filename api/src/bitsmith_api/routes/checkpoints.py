"""What a job can be continued from."""

import re

from bitsmith_core import jobs
from bitsmith_core.ids import CheckpointId
from bitsmith_core.spec import JobSpec
from fastapi import APIRouter

from bitsmith_api.deps import Bounds, PathJobId, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas.attempts import Checkpoint, CheckpointList

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])


def _is_checkpoint_id(text: str) -> bool:
    return re.fullmatch("ftckpt-[0-9a-v]{26}", text) is not None


@router.get(
    "/{job_id}/checkpoints",
    summary="List a job's checkpoints",
    dependencies=[require("jobs:read")],
    responses=documented(401, 404, 422, 500, 503),
)
def list_checkpoints(job_id: PathJobId, bounds: Bounds, tx: Transaction) -> CheckpointList:
    """Newest first: one for each finished stage (`step_number` 0), and the last ones of the training. They are what the
    next attempt goes on from; what can be downloaded is the published model.
    """
    after = checked_cursor(bounds.after, _is_checkpoint_id, what="a checkpoint id")
    cursor = CheckpointId(after) if after else None
    spec = JobSpec.model_validate(jobs.get(tx, job_id).spec)
    found = jobs.queries.checkpoint_page(tx, job_id, limit=bounds.limit + 1, after=cursor)
    return CheckpointList.of([Checkpoint.of(row, spec) for row in found], limit=bounds.limit)
