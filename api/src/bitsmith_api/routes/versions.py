"""Versions of models: their pages, one with all its facts, its files."""

import re
from typing import Annotated

from bitsmith_core import registry
from bitsmith_core.clock import utc_now
from bitsmith_core.registry import lineage, lookup
from fastapi import APIRouter, Query

from bitsmith_api.deps import (
    Audited,
    Bounds,
    FromCaller,
    Services,
    SharedServices,
    Transaction,
    checked_cursor,
    require,
)
from bitsmith_api.deps.names import Name, Number
from bitsmith_api.errors import documented
from bitsmith_api.schemas.lineage import Lineage
from bitsmith_api.schemas.versions import EvalReference, Link, Version, VersionList, VersionSummary

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["Models"], route_class=Audited)
READS = [require("models:read")]


@router.get("", summary="List a model's versions", dependencies=READS, responses=documented(401, 404, 422, 500, 503))
def list_versions(
    name: Name,
    bounds: Bounds,
    caller: FromCaller,
    tx: Transaction,
    before: Annotated[str | None, Query(description="`first_id` of the page after")] = None,
) -> VersionList:
    """Newest first."""
    after_number = _number(checked_cursor(bounds.after, _is_version, what="a version's id"))
    before_number = _number(checked_cursor(before, _is_version, what="a version's id", name="before"))
    row = lookup.model(tx, name, project=caller.project)
    found = lookup.versions(tx, row, limit=bounds.limit, after=after_number, before=before_number)
    summaries = [VersionSummary.of(name, each, found.scores.get(each.id, [])) for each in found.versions]
    return VersionList.part(summaries, has_more=found.has_more)


@router.get("/{version}", summary="Get a version", dependencies=READS, responses=documented(401, 404, 422, 500, 503))
def get_version(name: Name, version: Number, caller: FromCaller, tx: Transaction, services: SharedServices) -> Version:
    """One version: what was quantized and how, what was trained, what it scores, and a link for each file."""
    row = lookup.version(tx, name, version, project=caller.project)
    shown = Version.linked(name, row, _link(services))
    shown.aliases = lookup.aliases_at(tx, row.model_id, row.number)
    shown.evals = [EvalReference.of(each) for each in lookup.evals_of(tx, row.id)]
    return shown


@router.get(
    "/{version}/lineage",
    summary="Get a version's lineage",
    dependencies=READS,
    responses=documented(401, 404, 422, 500, 503),
)
def get_version_lineage(name: Name, version: Number, caller: FromCaller, tx: Transaction) -> Lineage:
    """What it came from and what came from it: the base model, data, job, exports and evaluations."""
    return Lineage.of(lineage.of_version(tx, name, version, project=caller.project))


def _is_version(text: str) -> bool:
    return re.fullmatch(r"([\w.-]{1,200}@)?[1-9][0-9]{0,8}", text) is not None


def _number(cursor: str | None) -> int | None:
    return None if cursor is None else int(cursor.rpartition("@")[2])


def _link(services: Services) -> Link:
    expires = services.settings.download_expires

    def url_of(file: registry.VersionFile) -> str:
        return services.store.presigned_get(file.object_key, expires=expires, filename=file.path.rpartition("/")[2])

    return Link(url_of=url_of, expires_at=utc_now() + expires)
