"""The registry: what jobs published."""

from dataclasses import replace
from typing import Annotated

from bitsmith_core import registry
from bitsmith_core.db import Tx
from bitsmith_core.registry import changes, lookup, search
from bitsmith_core.registry import facets as faceting
from fastapi import APIRouter, Depends, Query, Response

from bitsmith_api.deps import Audited, FromCaller, Transaction, checked_cursor, require
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.deps.browsing import SCORE_PARAMETER, FromBrowsing, FromSort
from bitsmith_api.deps.etag import ETAG_HEADERS, RequiredIfMatch, etag
from bitsmith_api.deps.filters import bad_filter
from bitsmith_api.deps.names import Name, Reference, is_name
from bitsmith_api.errors import documented
from bitsmith_api.schemas.facets import ModelFacets
from bitsmith_api.schemas.models import Model, ModelChange, ModelDeleted, ModelList, ModelSummary
from bitsmith_api.schemas.versions import VersionSummary

router = APIRouter(prefix="/v1/models", tags=["Models"], route_class=Audited)
READS, WRITES = [require("models:read")], [require("models:write")]

MOST = 1000  # models in one answer: OpenAI's clients do not ask for a second page
MOST_VERSIONS = 100  # in a model's answer


@router.get(
    "",
    summary="List models",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
    openapi_extra=SCORE_PARAMETER,
)
def list_models(
    wanted: FromBrowsing,
    sort: FromSort,
    caller: FromCaller,
    tx: Transaction,
    limit: Annotated[int, Query(ge=1, le=MOST, description="how many at most")] = MOST,
    after: Annotated[str | None, Query(description="`last_id` of the page before")] = None,
    before: Annotated[str | None, Query(description="`first_id` of the page after")] = None,
) -> ModelList:
    """By name, unless `sort` says otherwise, each with its newest version. Filters look at that version and narrow each
    other down; several values of one filter widen it, but for tags, which must all be there.
    """
    after = checked_cursor(after, is_name, what="a model's name")
    before = checked_cursor(before, is_name, what="a model's name", name="before")
    found = search.page(tx, project=caller.project, limit=limit, wanted=wanted, sort=sort, after=after, before=before)
    return ModelList.part([ModelSummary.of(each) for each in found.models], has_more=found.has_more)


@router.get(
    "/facets",
    summary="Count what models can be filtered by",
    dependencies=READS,
    responses=documented(401, 422, 500, 503),
    openapi_extra=SCORE_PARAMETER,
)
def get_model_facets(wanted: FromBrowsing, caller: FromCaller, tx: Transaction) -> ModelFacets:
    """What a filter could be set to, with the number of models that would be left, and the ranges of numbers. Each
    facet's counts keep all other filters and ignore its own.
    """
    return ModelFacets.of(faceting.facets(tx, project=caller.project, wanted=wanted))


@router.get(
    "/best",
    summary="Get the smallest version that is good enough",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
    openapi_extra=SCORE_PARAMETER,
)
def get_best_model(
    wanted: FromBrowsing,
    caller: FromCaller,
    tx: Transaction,
    keeps: Annotated[
        float | None,
        Query(gt=0, le=10, allow_inf_nan=False, description="share of its own float base's score in `task`: 0.97"),
    ] = None,
) -> VersionSummary:
    """Of all versions, the newest ones or not, that meet every filter: the one with the fewest bytes of weights.

    `score[piqa][gte]=0.75` asks for a score; `keeps=0.97&task=piqa` for 97 % of what the version's own float base
    scored, under the same comparable_key. With `keeps`, `task` names the evaluation.
    """
    kept = None
    if keeps is not None:
        if len(wanted.tasks) != 1:
            raise bad_filter("task", "with keeps, name the one task whose score shall be kept")
        kept, wanted = search.Kept(task=wanted.tasks[0], share=keeps), replace(wanted, tasks=())
    found = search.best(tx, project=caller.project, wanted=wanted, kept=kept)
    return VersionSummary.of(found.model.name, found.version, found.scores)


@router.get(
    "/{name}",
    summary="Get a model",
    dependencies=READS,
    responses={
        200: {"description": "The model", "headers": ETAG_HEADERS},
        **documented(401, 404, 500, 503),
    },
)
def get_model(reference: Reference, caller: FromCaller, tx: Transaction, response: Response) -> Model:
    """The model with its card, aliases, gates and versions; `name@2` and `name@alias` answer with that version only,
    under the version's id.
    """
    name, version = reference
    row = lookup.model(tx, name, project=caller.project)
    response.headers["ETag"] = etag(row.revision)
    if version is None:
        return _rendered(tx, row, lookup.versions(tx, row, limit=MOST_VERSIONS))
    number = lookup.number_of(tx, row, version)
    model = _rendered(tx, row, lookup.one(tx, row, number))
    return model.model_copy(update={"id": f"{name}@{number}"})


@router.patch(
    "/{name}",
    summary="Change a model",
    dependencies=WRITES,
    responses={
        200: {"description": "The model", "headers": ETAG_HEADERS},
        **documented(400, 401, 404, 412, 413, 415, 422, 428, 500, 503),
    },
    openapi_extra=body_schema(ModelChange),
)
def change_model(
    name: Name,
    change: Annotated[ModelChange, Depends(json_body(ModelChange))],
    revision: RequiredIfMatch,
    caller: FromCaller,
    tx: Transaction,
    response: Response,
) -> Model:
    """What people write about a model: its card, tags, licence; who may read it; what moving an alias asks for. What is
    left out stays. `If-Match` is required, so that nobody overwrites what they have not seen.
    """
    row = changes.change(tx, name, change.changes(), revision=revision, project=caller.project)
    response.headers["ETag"] = etag(row.revision)
    return _rendered(tx, row, lookup.versions(tx, row, limit=MOST_VERSIONS))


@router.delete("/{name}", summary="Delete a model", dependencies=WRITES, responses=documented(401, 404, 409, 500, 503))
def delete_model(reference: Reference, caller: FromCaller, tx: Transaction) -> ModelDeleted:
    """For good: `name@2` that version, `name` the model with all of them. The jobs stay, and no number is given twice.
    What an alias points at answers 409.
    """
    name, version = reference
    number = None if version is None else lookup.version(tx, name, version, project=caller.project).number
    registry.delete(tx, name, number, project=caller.project)
    return ModelDeleted(id=name if number is None else f"{name}@{number}")


def _rendered(tx: Tx, row: registry.Model, found: lookup.Slice) -> Model:
    versions = [VersionSummary.of(row.name, each, found.scores.get(each.id, [])) for each in found.versions]
    aliases = search.aliases_of(tx, [row.id]).get(row.id, {})
    return Model.listing(row, aliases, versions)
