"""Evaluations of versions, and paired comparisons of two of them.

Items are read from the object store with no transaction open: another server's pace must not hold connections.
"""

from typing import Annotated

from bitsmith_core.bundle import Subject, SubjectItems
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import EvalId, is_eval_id
from bitsmith_core.registry import compare, evals
from bitsmith_core.registry.eval_rows import Found
from fastapi import APIRouter, Depends, Path, Query

from bitsmith_api.deps import Bounds, FromCaller, Services, SharedServices, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas.evals import (
    Comparison,
    Eval,
    EvalItemList,
    EvalList,
    TaskComparison,
    items_of,
)

router = APIRouter(prefix="/v1/evals", tags=["Evaluations"], dependencies=[require("models:read")])

_SIDE = r"^[A-Za-z0-9_.-]{1,200}(@[A-Za-z0-9_.-]{1,200})?(:(float|quantized|qsft|lora|qlora))?$"
Side = Annotated[
    str,
    Query(
        pattern=_SIDE,
        description="name@3, name@alias, or name for its newest version; `:float` behind it is what it was made from",
        examples=["name-qsft@2"],
    ),
]


def _found(
    eval_id: Annotated[str, Path(examples=["eval-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    caller: FromCaller,
    services: SharedServices,
) -> Found:
    """Another project's evaluation is not there. In a transaction of its own."""
    if not is_eval_id(eval_id):
        raise NotFound(f"there is no evaluation {eval_id}")
    with services.database.transaction() as tx:
        return evals.get(tx, EvalId(eval_id), project=caller.project)


PathEval = Annotated[Found, Depends(_found)]


@router.get("", summary="List evaluations", responses=documented(401, 422, 500, 503))
def list_evals(
    bounds: Bounds,
    caller: FromCaller,
    tx: Transaction,
    model: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9_.-]{1,200}$", description="a model's name")] = None,
    version: Annotated[int | None, Query(ge=1, lt=2**31, description="the number of its version")] = None,
    task: Annotated[
        str | None, Query(max_length=100, pattern=r"^[^\x00]*$", description="one of its scores is of this task")
    ] = None,
) -> EvalList:
    """Newest first, with their scores. Every job that publishes a version has one; `evaluate` jobs add more."""
    after = checked_cursor(bounds.after, is_eval_id, what="an evaluation's id")
    found = evals.page(
        tx,
        project=caller.project,
        limit=bounds.limit + 1,
        model=model,
        number=version,
        task=task,
        after=EvalId(after) if after else None,
    )
    return EvalList.of([Eval.of(row) for row in found], limit=bounds.limit)


@router.get("/compare", summary="Compare two versions", responses=documented(401, 404, 422, 500, 503))
def compare_versions(
    a: Side,
    b: Side,
    caller: FromCaller,
    services: SharedServices,
    confidence: Annotated[float, Query(ge=0.5, le=0.9999)] = compare.CONFIDENCE,
) -> Comparison:
    """Task by task, item by item: what is hard for both cancels. Scores that were not asked the same are not
    subtracted: their `verdict` is `not comparable`, and `reason` says why.
    """
    with services.database.transaction() as tx:
        ours, theirs = (evals.side(tx, reference, project=caller.project) for reference in (a, b))
    found = compare.compare(evals.pairs(ours, theirs), services.items.read, confidence=confidence)
    tasks = [TaskComparison.of(task) for task in found]
    return Comparison(a=ours.name, b=theirs.name, confidence=confidence, tasks=tasks)


@router.get("/{eval_id}", summary="Get an evaluation", responses=documented(401, 404, 500, 503))
def get_eval(found: PathEval) -> Eval:
    """What was measured, by which engine, and how to ask the same again (`details`)."""
    return Eval.of(found)


@router.get("/{eval_id}/items", summary="List an evaluation's items", responses=documented(401, 404, 422, 500, 503))
def list_items(
    found: PathEval,
    bounds: Bounds,
    services: SharedServices,
    task: Annotated[str, Query(max_length=100, examples=["piqa"])],
    subject: Annotated[Subject | None, Query(description="the version itself if unset")] = None,
) -> EvalItemList:
    """Every single answer of a task, in the order in which they were asked."""
    after = checked_cursor(bounds.after, _is_position, what="an item's id")
    rows = items_of(_items(found, subject or found.subject, services), task)
    if not rows:
        raise NotFound(f"evaluation {found.row.id} has no items of {task!r} for {subject or found.subject}")
    start = 0 if after is None else int(after) + 1
    return EvalItemList.of(rows[start : start + bounds.limit + 1], limit=bounds.limit)


def _items(found: Found, subject: str, services: Services) -> SubjectItems:
    key = found.row.items_key
    kept = services.items.read(key) if key else None
    if kept is None:
        raise NotFound(f"the items of evaluation {found.row.id} are not kept")
    for items in kept.items:
        if items.subject == subject:
            return items
    scored = ", ".join(items.subject for items in kept.items)
    raise NotFound(f"evaluation {found.row.id} scored no {subject}; it scored {scored}")


def _is_position(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
