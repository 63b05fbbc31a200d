"""Fine-tuning jobs."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

from bitsmith_core import jobs, registry
from bitsmith_core.db import Tx
from bitsmith_core.ids import JobId, is_job_id
from bitsmith_core.registry import evals
from bitsmith_core.spec import JobRequest
from fastapi import APIRouter, Depends, Query, Response
from pydantic_core import to_json

from bitsmith_api.deps import (
    Audited,
    Changes,
    CheckedRequest,
    FromCaller,
    FromFilter,
    FromQuota,
    IfMatch,
    OrderedBounds,
    PathJobId,
    Quota,
    Transaction,
    checked_cursor,
    etag,
    require,
)
from bitsmith_api.deps.body import SPEC_BODY, body_schema, job_request, json_body
from bitsmith_api.deps.dry_run import decided, dry_run
from bitsmith_api.deps.etag import ETAG_HEADERS
from bitsmith_api.deps.filters import METADATA_PARAMETER
from bitsmith_api.deps.idempotency import REPLAYED_HEADERS
from bitsmith_api.errors import documented
from bitsmith_api.schemas.jobs import Contexts, DryRun, Job, JobChange, JobList

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning jobs"], route_class=Audited)
READS, WRITES = [require("jobs:read")], [require("jobs:write")]


def _answers(
    description: str, *statuses: int, headers: dict[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "headers": {**ETAG_HEADERS, **(headers or {})}}, **documented(*statuses)}


@router.post(
    "",
    summary="Submit a job",
    dependencies=WRITES,
    responses=_answers(
        "The job; with `dry_run=true` what it would be", 400, 401, 409, 413, 415, 422, 500, 503,
        headers=REPLAYED_HEADERS,
    ),
    openapi_extra=SPEC_BODY,
)  # fmt: skip
def create_job(
    request: CheckedRequest,
    caller: FromCaller,
    quota: FromQuota,
    tx: Transaction,
    response: Response,
    is_dry_run: Annotated[
        bool, Query(alias="dry_run", description="check, resolve and estimate only; nothing is written")
    ] = False,
) -> Job | DryRun:
    """Queue a job, which a free worker takes. Every default is resolved in the answer, and every `auto` decided.

    With `dry_run=true` the answer is the resolved spec, what it needs in memory and time, part by part, warnings, and
    `errors`: why the request would be refused.
    """
    if is_dry_run:
        return dry_run(tx, request, project=caller.project)
    return _submitted(tx, request, caller, quota, response)


@router.get(
    "",
    summary="List jobs",
    dependencies=READS,
    responses=documented(401, 422, 500, 503),
    openapi_extra=METADATA_PARAMETER,
)
def list_jobs(bounds: OrderedBounds, wanted: FromFilter, caller: FromCaller, tx: Transaction) -> JobList:
    """By time of creation, newest first unless `order=asc`. Filters narrow each other down."""
    after = checked_cursor(bounds.after, is_job_id, what="a job id")
    before = checked_cursor(bounds.before, is_job_id, what="a job id", name="before")
    found = jobs.queries.page(
        tx,
        project=caller.project,
        limit=bounds.limit,
        wanted=wanted,
        after=JobId(after) if after else None,
        before=JobId(before) if before else None,
        is_newest_first=bounds.order == "desc",
    )
    return JobList.part(_rendered(tx, found.jobs), has_more=found.has_more)


@router.get("/{job_id}", summary="Get a job", dependencies=READS, responses=_answers("The job", 401, 404, 500, 503))
def get_job(job_id: PathJobId, tx: Transaction, response: Response) -> Job:
    """The job as it stands: status, stage, progress, place in the queue, result."""
    return _answered(tx, jobs.get(tx, job_id), response)


@router.patch(
    "/{job_id}",
    summary="Change a job",
    dependencies=WRITES,
    responses=_answers("The job", 400, 401, 404, 409, 412, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(JobChange),
)
def change_job(
    job_id: PathJobId,
    change: Annotated[JobChange, Depends(json_body(JobChange))],
    version: IfMatch,
    tx: Transaction,
    response: Response,
) -> Job:
    """Priority and metadata may change at any time (the priority only until the job is over); what is left out stays.
    With `If-Match` a job that somebody else changed meanwhile answers 412.
    """
    row = jobs.change(tx, job_id, version=version, priority=change.priority, labels=change.metadata)
    return _answered(tx, row, response)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    dependencies=WRITES,
    responses=_answers("The job", 401, 404, 409, 422, 500, 503, headers=REPLAYED_HEADERS),
)
def cancel_job(job_id: PathJobId, tx: Transaction, response: Response) -> Job:
    """A waiting or paused job is cancelled at once. A running one is asked to stop: `desired_state` is `cancel` until
    its worker obeys. Cancelling twice is fine; a job that succeeded or failed answers 409.
    """
    return _answered(tx, jobs.cancel(tx, job_id), response)


@router.post(
    "/{job_id}/pause",
    summary="Pause a job",
    dependencies=WRITES,
    responses=_answers("The job", 401, 404, 409, 422, 500, 503, headers=REPLAYED_HEADERS),
)
def pause_job(job_id: PathJobId, tx: Transaction, response: Response) -> Job:
    """A waiting job is paused at once. A running one makes a checkpoint first and gives its worker back:
    `desired_state` is `pause` until then. Pausing twice is fine; a job that is over answers 409.
    """
    return _answered(tx, jobs.pause(tx, job_id), response)


@router.post(
    "/{job_id}/resume",
    summary="Resume a job",
    dependencies=WRITES,
    responses=_answers("The job", 401, 404, 409, 422, 500, 503, headers=REPLAYED_HEADERS),
)
def resume_job(job_id: PathJobId, tx: Transaction, response: Response) -> Job:
    """A paused job waits for a worker again and goes on from its last checkpoint. A pause that has not happened yet is
    taken back. A job that is over answers 409.
    """
    return _answered(tx, jobs.resume(tx, job_id), response)


@router.post(
    "/{job_id}/clone",
    summary="Clone a job",
    dependencies=WRITES,
    responses=_answers("The new job", 400, 401, 404, 409, 413, 415, 422, 500, 503, headers=REPLAYED_HEADERS),
    openapi_extra={
        "requestBody": {
            "required": False,
            "description": "what is different, as a JSON merge patch (RFC 7396) of the request",
            "content": {"application/json": {"schema": {"type": "object"}, "example": {"seed": 1}}},
        }
    },
)
def clone_job(
    changes: Changes,
    job_id: PathJobId,
    caller: FromCaller,
    quota: FromQuota,
    tx: Transaction,
    response: Response,
) -> Job:
    """A new job that asks for the same, but for what the body changes: `{"method": {"qsft": {"training": {"epochs":
    2}}}}` keeps everything else. A null takes a field back to its default; another method starts from its defaults.
    """
    source = jobs.get(tx, job_id)
    body = merged({**source.spec, "metadata": source.labels, "priority": source.priority}, changes)
    return _submitted(tx, job_request(to_json(body)), caller, quota, response)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, except that another method does not inherit the settings of the one it replaces. Pure."""
    if not isinstance(patch, dict):
        return patch
    old = target if isinstance(target, dict) else {}
    if _is_other_method(old.get("method"), patch.get("method")):
        old = {name: value for name, value in old.items() if name != "method"}
    kept = {name: value for name, value in old.items() if name not in patch}
    return kept | {name: merged(old.get(name), value) for name, value in patch.items() if value is not None}


def _is_other_method(old: Any, new: Any) -> bool:
    return isinstance(old, dict) and isinstance(new, dict) and new.get("type", old.get("type")) != old.get("type")


def _submitted(tx: Tx, request: JobRequest, caller: FromCaller, quota: Quota, response: Response) -> Job:
    spec = decided(tx, request, project=caller.project)
    quota.check_job(tx)
    job = jobs.submit(tx, spec, project=caller.project, priority=request.priority, submitted_by=caller.actor)
    return _answered(tx, job, response)


def _answered(tx: Tx, row: jobs.Job, response: Response) -> Job:
    response.headers["ETag"] = etag(row.version)
    (job,) = _rendered(tx, [row])
    return job


def _rendered(tx: Tx, rows: Sequence[jobs.Job]) -> list[Job]:
    ids = [row.id for row in rows]
    outcomes = registry.outcomes_of(tx, ids)
    contexts = Contexts(
        results={job_id: outcome.name for job_id, outcome in outcomes.items()},
        evals=evals.of_jobs(tx, ids),
        trained_tokens={job_id: outcome.tokens for job_id, outcome in outcomes.items() if outcome.tokens is not None},
        places=jobs.queries.queue_places(tx, rows),
        attempts=jobs.queries.last_attempts(tx, ids),
    )
    return contexts.render(rows, now=int(time.time()))
