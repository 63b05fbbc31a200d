"""Aliases of models. Moving one may be gated: the comparison reads files, so it happens between two transactions."""

import re
from typing import Annotated

from bitsmith_core.registry import aliases, lookup, trials
from fastapi import APIRouter, Depends, Request, Response

from bitsmith_api.deps import (
    Audited,
    Bounds,
    FromCaller,
    SharedServices,
    Transaction,
    checked_cursor,
    etag,
    require,
)
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.deps.etag import ETAG_HEADERS, FromSeen
from bitsmith_api.deps.names import AliasName, Name
from bitsmith_api.errors import documented
from bitsmith_api.schemas.aliases import (
    Alias,
    AliasChange,
    AliasDeleted,
    AliasList,
    AliasMove,
    AliasMoveList,
    AliasVerdict,
)

router = APIRouter(prefix="/v1/models/{name}/aliases", tags=["Models"], route_class=Audited)
READS, WRITES = [require("models:read")], [require("models:write")]


@router.get("", summary="List a model's aliases", dependencies=READS, responses=documented(401, 404, 500, 503))
def list_aliases(name: Name, caller: FromCaller, tx: Transaction) -> AliasList:
    """By name: all, for they are few."""
    owner = lookup.model(tx, name, project=caller.project)
    return AliasList(data=[Alias.of(name, row) for row in aliases.of_model(tx, owner)])


@router.get(
    "/{alias}",
    summary="Get an alias",
    dependencies=READS,
    responses={200: {"description": "The alias", "headers": ETAG_HEADERS}, **documented(401, 404, 500, 503)},
)
def get_alias(name: Name, alias: AliasName, caller: FromCaller, tx: Transaction, response: Response) -> Alias:
    """Where it points, with the ETag that moving it asks for."""
    row = aliases.get(tx, lookup.model(tx, name, project=caller.project), alias)
    response.headers["ETag"] = etag(row.revision)
    return Alias.of(name, row)


@router.put(
    "/{alias}",
    summary="Make or move an alias",
    dependencies=WRITES,
    responses={
        200: {"description": "The alias; with `dry_run` what the gate found", "headers": ETAG_HEADERS},
        **documented(400, 401, 404, 409, 412, 413, 415, 422, 428, 500, 503),
    },
    openapi_extra=body_schema(AliasChange),
)
def put_alias(
    request: Request,
    name: Name,
    alias: AliasName,
    change: Annotated[AliasChange, Depends(json_body(AliasChange))],
    seen: FromSeen,
    caller: FromCaller,
    services: SharedServices,
    response: Response,
) -> Alias | AliasVerdict:
    """Point the alias at a version. Who moves it says what they saw (`If-Match`), who makes it that there is none
    (`If-None-Match: *`); every move is kept with its reason.

    If the model has a gate for the alias, the version is first compared with what the gate names. A significant loss
    answers 409 `gate_refused`, with all that was compared under `gate`; `dry_run` answers with what it found and moves
    nothing.
    """
    with services.database.transaction() as tx:
        intent = aliases.intend(tx, name, alias, change.version, seen=seen, project=caller.project)
        trial = None
        if intent.gate is not None:
            trial = trials.plan(
                tx, intent.gate, candidate=intent.candidate, current=intent.current, project=caller.project
            )
    report = None if trial is None else trials.decide(trial, services.items.read)
    if change.dry_run:
        request.state.changed_nothing = True
        return AliasVerdict(
            id=f"{name}@{alias}",
            from_version=intent.current,
            to_version=intent.number,
            gate=None if report is None else report.as_json(),
            passed=report is None or report.passed,
        )
    with services.database.transaction() as tx:
        row = aliases.move(tx, intent, project=caller.project, actor=caller.actor, reason=change.reason, report=report)
    response.headers["ETag"] = etag(row.revision)
    return Alias.of(name, row)


@router.delete(
    "/{alias}",
    summary="Delete an alias",
    dependencies=WRITES,
    responses=documented(401, 404, 412, 422, 428, 500, 503),
)
def delete_alias(name: Name, alias: AliasName, seen: FromSeen, caller: FromCaller, tx: Transaction) -> AliasDeleted:
    """Take it away, with `If-Match`; its history stays."""
    aliases.remove(tx, name, alias, seen=seen, project=caller.project, actor=caller.actor)
    return AliasDeleted(id=f"{name}@{alias}")


@router.get(
    "/{alias}/history",
    summary="List an alias' moves",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
)
def list_alias_moves(
    name: Name, alias: AliasName, bounds: Bounds, caller: FromCaller, tx: Transaction
) -> AliasMoveList:
    """Newest first: where it pointed, who moved it, why, and what a gate found."""
    after = checked_cursor(bounds.after, _is_move, what="the id of a move")
    owner = lookup.model(tx, name, project=caller.project)
    rows = aliases.history(tx, owner, alias, limit=bounds.limit + 1, after=int(after) if after else None)
    return AliasMoveList.of([AliasMove.of(row) for row in rows], limit=bounds.limit)


def _is_move(text: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,17}", text) is not None
