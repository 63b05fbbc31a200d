"""The registry: what jobs published."""

import re
from typing import Annotated

from bitsmith_core import registry
from bitsmith_core.clock import utc_now
from bitsmith_core.errors import NotFound
from fastapi import APIRouter, Depends, Path

from bitsmith_api.deps import Bounds, FromCaller, Services, SharedServices, Transaction, checked_cursor
from bitsmith_api.errors import documented
from bitsmith_api.schemas import Link, Model, ModelList, ModelSummary, Version

router = APIRouter(prefix="/v1/models", tags=["Models"])


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.-]{1,200}", text) is not None


async def _name(name: Annotated[str, Path(examples=["name-qsft"])]) -> str:
    if not _is_name(name):
        raise NotFound(f"there is no model {name!r} in the registry")
    return name


Name = Annotated[str, Depends(_name)]


@router.get("", summary="List models", responses=documented(401, 422, 500, 503))
def list_models(bounds: Bounds, caller: FromCaller, tx: Transaction) -> ModelList:
    """By name, each with its newest version."""
    after = checked_cursor(bounds.after, _is_name, what="a model's name")
    found = registry.page(tx, project=caller.project, limit=bounds.limit + 1, after=after)
    return ModelList.of([ModelSummary.of(row) for row in found], limit=bounds.limit)


@router.get("/{name}", summary="Get a model", responses=documented(401, 404, 500, 503))
def get_model(name: Name, caller: FromCaller, tx: Transaction, services: SharedServices) -> Model:
    """The model with all its versions, their scores, and a download link for each file."""
    return Model.linked(registry.get(tx, name, project=caller.project), _link(services))


@router.get("/{name}/versions/{version}", summary="Get a version", responses=documented(401, 404, 422, 500, 503))
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

    def url_of(prefix: str, path: str) -> str:
        return services.store.presigned_get(f"{prefix}/{path}", expires=expires, filename=path.rpartition("/")[2])

    return Link(url_of=url_of, expires_at=utc_now() + expires)
