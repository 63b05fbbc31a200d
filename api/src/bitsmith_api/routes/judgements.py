"""Judgements of a model on the answers of others. Judging itself happens in the client, with the judge's key."""

from typing import Annotated

from bitsmith_core.errors import NotFound
from bitsmith_core.ids import JudgementId, is_judgement_id
from bitsmith_core.registry import judgement_rows
from bitsmith_core.registry.elo import Verdict
from bitsmith_core.registry.judgement_rows import Judgement as Row
from fastapi import APIRouter, Depends, Path

from bitsmith_api.deps import Audited, Bounds, FromCaller, SharedServices, Transaction, checked_cursor, require
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.errors import documented
from bitsmith_api.schemas.judgements import Judgement, JudgementList, JudgementSummary, NewJudgement

router = APIRouter(prefix="/v1/judgements", tags=["Evaluations"], route_class=Audited)
READS, WRITES = [require("models:read")], [require("models:write")]


def _found(
    judgement_id: Annotated[str, Path(examples=["judge-0kp1p4n3vtsu5qc1q0o8g0a4lk"])],
    caller: FromCaller,
    services: SharedServices,
) -> Row:
    """Another project's judgement is not there. In a transaction of its own."""
    if not is_judgement_id(judgement_id):
        raise NotFound(f"there is no judgement {judgement_id}")
    with services.database.transaction() as tx:
        return judgement_rows.get(tx, JudgementId(judgement_id), project=caller.project)


@router.post(
    "",
    summary="Record a judgement",
    dependencies=WRITES,
    responses=documented(400, 401, 409, 413, 415, 422, 500, 503),
    openapi_extra=body_schema(NewJudgement),
)
def create_judgement(
    new: Annotated[NewJudgement, Depends(json_body(NewJudgement))], caller: FromCaller, tx: Transaction
) -> Judgement:
    """Verdicts on pairs of answers, each pair best shown in both orders. The answer has the ratings."""
    row = judgement_rows.add(
        tx,
        project=caller.project,
        title=new.title,
        judge=new.judge,
        prompts_sha256=new.prompts_sha256,
        template_sha256=new.template_sha256,
        contestants=new.contestants,
        verdicts=[Verdict(v.prompt, v.first, v.second, v.winner) for v in new.verdicts],
        created_by=caller.actor,
    )
    return Judgement.rated(row)


@router.get("", summary="List judgements", dependencies=READS, responses=documented(401, 422, 500, 503))
def list_judgements(bounds: Bounds, caller: FromCaller, tx: Transaction) -> JudgementList:
    """Newest first, without verdicts and ratings."""
    after = checked_cursor(bounds.after, is_judgement_id, what="a judgement's id")
    cursor = JudgementId(after) if after else None
    found = judgement_rows.page(tx, project=caller.project, limit=bounds.limit + 1, after=cursor)
    return JudgementList.of([JudgementSummary.of(row) for row in found], limit=bounds.limit)


@router.get("/{judgement_id}", summary="Get a judgement", dependencies=READS, responses=documented(401, 404, 500, 503))
def get_judgement(row: Annotated[Row, Depends(_found)]) -> Judgement:
    """Ratings with their intervals, how much the order of answers mattered to the judge, and every verdict."""
    return Judgement.rated(row)
