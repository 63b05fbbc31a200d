"""Files of a version, and its model card."""

from typing import Annotated, Any

from bitsmith_core import registry
from bitsmith_core.clock import utc_now
from bitsmith_core.errors import NotFound
from bitsmith_core.registry import contents, lookup
from bitsmith_core.registry.contents import Contents
from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import JSONResponse, RedirectResponse, Response

from bitsmith_api.deps import FromCaller, Services, SharedServices, Transaction, require
from bitsmith_api.deps.names import Name, Number
from bitsmith_api.errors import documented
from bitsmith_api.schemas.model_files import ModelFileLink, ModelFileList
from bitsmith_api.schemas.times import unix
from bitsmith_api.schemas.versions import ModelFile

router = APIRouter(prefix="/v1/models/{name}/versions/{version}", tags=["Models"])
READS = [require("models:read")]

CARD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The card", "content": {"text/markdown": {"schema": {"type": "string"}}}}
}


def _contents(name: Name, version: Number, caller: FromCaller, tx: Transaction) -> Contents:
    return contents.at(tx, lookup.model(tx, name, project=caller.project), version)


FromContents = Annotated[Contents, Depends(_contents)]


@router.get(
    "/files", summary="List a version's files", dependencies=READS, responses=documented(401, 404, 422, 500, 503)
)
def list_model_files(found: FromContents, services: SharedServices) -> ModelFileList:
    """Each with its digest and a link that anybody may use until it expires."""
    files = [_linked(services, file) for _, file in sorted(found.files.items())]
    return ModelFileList(data=files, download_expires_at=unix(utc_now() + services.settings.download_expires))


@router.get(
    "/files/{path:path}",
    summary="Download a file of a version",
    dependencies=READS,
    status_code=307,
    response_class=RedirectResponse,
    responses={
        200: {"description": "With `redirect=false`: the link and what it leads to", "model": ModelFileLink},
        307: {
            "description": "Where the bytes are, for anybody until the link expires",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
        **documented(401, 404, 422, 500, 503),
    },
)
def get_model_file(
    path: Annotated[str, Path(description="as the list has it, slashes included", examples=["bf16/config.json"])],
    found: FromContents,
    services: SharedServices,
    redirect: Annotated[bool, Query(description="false: answer with the link instead of a redirect")] = True,
) -> Response:
    """Redirects to a link into the object store. Follow it without the API key, as HTTP clients do by themselves when
    a redirect leads to another host.
    """
    file = found.files.get(path)
    if file is None:
        raise NotFound(f"version {found.version.number} of model {found.model.name!r} has no file {path!r}")
    linked = _linked(services, file)
    never_stored = {"Cache-Control": "no-store"}
    if redirect:
        return RedirectResponse(linked.download_url, status_code=307, headers=never_stored)
    expires_at = unix(utc_now() + services.settings.download_expires)
    answer = ModelFileLink(**linked.model_dump(), download_expires_at=expires_at)
    return JSONResponse(answer.model_dump(mode="json"), headers=never_stored)


@router.get(
    "/card",
    summary="Get a version's model card",
    dependencies=READS,
    response_class=Response,
    responses={**CARD, **documented(401, 404, 422, 500, 503)},
)
def get_model_card(found: FromContents, tx: Transaction) -> Response:
    """Markdown with YAML front matter: the facts and scores of this version around the text that people gave the model.
    It is what `README.md` is under `/hub`.
    """
    return Response(contents.readme(tx, found), media_type="text/markdown; charset=utf-8")


def _linked(services: Services, file: registry.VersionFile) -> ModelFile:
    expires, filename = services.settings.download_expires, file.path.rpartition("/")[2]
    url = services.store.presigned_get(file.object_key, expires=expires, filename=filename)
    return ModelFile(path=file.path, bytes=file.bytes, sha256=file.sha256, download_url=url)
