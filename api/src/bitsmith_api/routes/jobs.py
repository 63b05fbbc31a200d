"""Fine-tuning jobs."""

from typing import Annotated

from bitsmith_core import identity, jobs, registry
from bitsmith_core.db import Tx
from bitsmith_core.errors import Problem
from bitsmith_core.ids import JobId, is_job_id
from bitsmith_core.jobs import JobStatus
from bitsmith_core.spec import JobSpec
from fastapi import APIRouter, Header, Query, Response

from bitsmith_api.deps import Bounds, CheckedSpec, FromCaller, PathJobId, Transaction, checked_cursor
from bitsmith_api.deps.body import SPEC_BODY
from bitsmith_api.errors import InvalidRequest, documented
from bitsmith_api.schemas import Job, JobList

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"])

MAX_KEY_LENGTH = 255

_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` when the job was made by an earlier request with this Idempotency-Key",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


@router.post(
    "",
    summary="Submit a job",
    responses={
        200: {"description": "The job; the resolved spec with `dry_run=true`", "headers": _REPLAYED},
        **documented(400, 401, 413, 415, 422, 500, 503),
    },
    openapi_extra=SPEC_BODY,
)
def create_job(
    spec: CheckedSpec,
    caller: FromCaller,
    tx: Transaction,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="any text of at most 255 characters; the same key and body make one job",
        ),
    ] = None,
    dry_run: Annotated[bool, Query(description="check and resolve only; nothing is written")] = False,
) -> Job | JobSpec:
    """Queue a job, which a free worker takes. Every default is resolved in the answer.

    With an `Idempotency-Key` a repeated request answers with the job made the first time; another body under
    the same key is refused.
    """
    if dry_run:
        jobs.check(tx, spec, project=caller.project)
        return spec
    key = _checked_key(idempotency_key)
    known = key and identity.replayed(tx, key, project=caller.project, request_sha256=spec.sha256)
    if known:
        response.headers["Idempotent-Replayed"] = "true"
        return Job.model_validate(known.body)
    job = _rendered(tx, jobs.submit(tx, spec, project=caller.project))
    if key:
        answer = identity.Answer(status=200, body=job.model_dump(mode="json"))
        identity.remember(tx, key, answer, project=caller.project, request_sha256=spec.sha256)
    return job


@router.get("", summary="List jobs", responses=documented(401, 422, 500, 503))
def list_jobs(
    bounds: Bounds,
    caller: FromCaller,
    tx: Transaction,
    status: Annotated[list[JobStatus] | None, Query(description="repeat it to ask for several")] = None,
) -> JobList:
    """Newest first."""
    after = checked_cursor(bounds.after, is_job_id, what="a job id")
    found = jobs.page(
        tx,
        project=caller.project,
        limit=bounds.limit + 1,
        after=JobId(after) if after else None,
        statuses=status or (),
    )
    results = registry.results_of(tx, [row.id for row in found])
    return JobList.of([Job.of(row, result=results.get(row.id)) for row in found], limit=bounds.limit)


@router.get("/{job_id}", summary="Get a job", responses=documented(401, 404, 500, 503))
def get_job(job_id: PathJobId, tx: Transaction) -> Job:
    """The job as it stands: status, stage, progress, result."""
    return _rendered(tx, jobs.get(tx, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=documented(401, 404, 409, 500, 503))
def cancel_job(job_id: PathJobId, tx: Transaction) -> Job:
    """A waiting job is cancelled at once. A running one is asked to stop: `desired_state` is `cancel` until its
    worker obeys. Cancelling twice is fine; a job that succeeded or failed answers 409.
    """
    return _rendered(tx, jobs.cancel(tx, job_id))


def _rendered(tx: Tx, row: jobs.Job) -> Job:
    return Job.of(row, result=registry.results_of(tx, [row.id]).get(row.id))


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        detail = f"a key has 1 to {MAX_KEY_LENGTH} printable characters, this one has {len(key)}"
        problem = Problem(pointer="header Idempotency-Key", code="bad_key", detail=detail)
        raise InvalidRequest(f"Idempotency-Key: {detail}", [problem])
    return key
