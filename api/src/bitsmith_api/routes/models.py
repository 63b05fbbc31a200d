"""The registry: what jobs published."""

import re
from typing import Annotated

from bitsmith_core import registry
from bitsmith_core.clock import utc_now
from bitsmith_core.errors import NotFound
from fastapi import APIRouter, Depends, Path, Query

from bitsmith_api.deps import Audited, FromCaller, Services, SharedServices, Transaction, checked_cursor, require
from bitsmith_api.errors import documented
from bitsmith_api.schemas import Link, Model, ModelDeleted, ModelList, ModelSummary, Version

router = APIRouter(prefix="/v1/models", tags=["Models"], route_class=Audited)
READS, WRITES = [require("models:read")], [require("models:write")]

MOST = 1000  # models in one answer: OpenAI's clients do not ask for a second page

_NAME = r"[\w.-]{1,200}"


def _is_name(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None


async def _name(name: Annotated[str, Path(examples=["name-qsft"])]) -> str:
    if not _is_name(name):
        raise NotFound(f"there is no model {name!r} in the registry")
    return name


Name = Annotated[str, Depends(_name)]


async def _reference(
    name: Annotated[str, Path(description="name, or name@version", examples=["name-qsft@1"])],
) -> tuple[str, int | None]:
    match = re.fullmatch(rf"({_NAME})(?:@([1-9][0-9]{{0,8}}))?", name)
    if match is None:
        raise NotFound(f"there is no model {name!r} in the registry")
    return match[1], int(match[2]) if match[2] else None


Reference = Annotated[tuple[str, int | None], Depends(_reference)]


@router.get("", summary="List models", dependencies=READS, responses=documented(401, 422, 500, 503))
def list_models(
    caller: FromCaller,
    tx: Transaction,
    limit: Annotated[int, Query(ge=1, le=MOST, description="how many at most")] = MOST,
    after: Annotated[str | None, Query(description="`last_id` of the page before")] = None,
) -> ModelList:
    """By name, each with its newest version."""
    after = checked_cursor(after, _is_name, what="a model's name")
    found = registry.page(tx, project=caller.project, limit=limit + 1, after=after)
    return ModelList.of([ModelSummary.of(row) for row in found], limit=limit)


@router.get("/{name}", summary="Get a model", dependencies=READS, responses=documented(401, 404, 500, 503))
def get_model(reference: Reference, caller: FromCaller, tx: Transaction, services: SharedServices) -> Model:
    """The model with all its versions, their scores, and a download link for each file; `name@2` answers with that
    version only, under this id.
    """
    name, number = reference
    if number is not None:
        registry.get_version(tx, name, number, project=caller.project)
    return Model.linked(registry.get(tx, name, project=caller.project), _link(services), number=number)


@router.delete("/{name}", summary="Delete a model", dependencies=WRITES, responses=documented(401, 404, 500, 503))
def delete_model(reference: Reference, caller: FromCaller, tx: Transaction) -> ModelDeleted:
    """For good: `name@2` that version, `name` the model with all of them. The jobs stay."""
    name, number = reference
    registry.delete(tx, name, number, project=caller.project)
    return ModelDeleted(id=name if number is None else f"{name}@{number}")


@router.get(
    "/{name}/versions/{version}",
    summary="Get a version",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
)
def get_version(
    name: Name,
    version: Annotated[int, Path(ge=1, lt=2**31)],
    caller: FromCaller,
    tx: Transaction,
    services: SharedServices,
) -> Version:
    """One version: what was quantized and how, what was trained, what it scores, and a link for each file."""
    return Version.linked(name, registry.get_version(tx, name, version, project=caller.project), _link(services))


def _link(services: Services) -> Link:
    expires = services.settings.download_expires

    def url_of(file: registry.VersionFile) -> str:
        return services.store.presigned_get(file.object_key, expires=expires, filename=file.path.rpartition("/")[2])

    return Link(url_of=url_of, expires_at=utc_now() + expires)
