"""Idempotency-Key on every POST: the first answer is kept with the work it describes, and given again.

The key is looked up before the work, in a transaction of its own: no connection is held while a body comes in. The
answer is stored after the work, in the same transaction, so that either both are there or neither. There the key is
looked up once more, under a lock: if an equal request was faster meanwhile, or if a form turns out to have come before
(its content is known only now), the work is rolled back and the first answer given.

    router = APIRouter(…, route_class=Audited)      every router with a POST
"""

import hashlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from bitsmith_core import identity
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import Problem
from bitsmith_core.ids import ProjectId
from fastapi import Depends, Header
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from bitsmith_api.deps.body import read_body
from bitsmith_api.deps.caller import FromCaller
from bitsmith_api.deps.services import SharedServices
from bitsmith_api.errors import InvalidRequest, documented

REPLAYED = "Idempotent-Replayed"
MAX_KEY_LENGTH = 255
_SECRETS = ("secret", "key")  # of a new API key or webhook: told once and kept nowhere, so not here either

REPLAYED_HEADERS: dict[str, Any] = {
    REPLAYED: {
        "description": "`true` when this is the answer to an earlier request with the same Idempotency-Key",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


class Replayed(Exception):  # not an error: the work was done before, and its transaction must not be repeated
    def __init__(self, answer: identity.Answer) -> None:
        self.answer = answer


@dataclass(slots=True, kw_only=True)
class _Promise:
    """An answer that will be kept."""

    key: str
    project: ProjectId
    database: Database
    sha256: str | None  # of the request; None until a form has been read


async def _fingerprint(
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="any text of at most 255 characters; a repeated request with the "
            "same key and content gets the first answer again",
        ),
    ] = None,
) -> tuple[str, str | None] | None:
    """The key, and the request's digest as far as it can be known before the work."""
    if request.method != "POST" or idempotency_key is None or is_dry_run(request):
        return None
    _check(idempotency_key)
    if request.headers.get("content-type", "").startswith("multipart/"):
        return idempotency_key, None
    return idempotency_key, _digest(request, _canonical(await read_body(request)))


def _replay(
    request: Request,
    found: Annotated[tuple[str, str | None] | None, Depends(_fingerprint)],
    caller: FromCaller,
    services: SharedServices,
) -> None:
    if found is None:
        return
    key, sha256 = found
    if sha256 is not None:
        with services.database.transaction() as tx:
            known = identity.known(tx, key, project=caller.project, request_sha256=sha256)
        if known is not None:
            raise Replayed(known)
    request.state.promise = _Promise(key=key, project=caller.project, database=services.database, sha256=sha256)


class Once(APIRoute):
    """A route whose answers are kept under the client's key, if it sends one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(_replay)]
            own = options.get("responses") or {}
            options["responses"] = {**own, **documented(409, 422), **own}  # a key still at work, or used before
        super().__init__(*arguments, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def once(request: Request) -> Response:
            response = await handle(request)
            promise = getattr(request.state, "promise", None)
            if promise is not None:
                # Threads of its own: the request holds a connection, and the common ones may all be waiting for one.
                await to_thread.run_sync(_keep, promise, request, response, limiter=CapacityLimiter(1))
            return response

        return once


async def answer_again(_: Request, found: Exception) -> Response:
    """The first answer once more: the application's handler of Replayed."""
    assert isinstance(found, Replayed)
    headers = {REPLAYED: "true"}
    if found.answer.status == 204:
        return Response(status_code=204, headers=headers)
    return JSONResponse(found.answer.body, status_code=found.answer.status, headers=headers)


def _keep(promise: _Promise, request: Request, response: Response) -> None:
    """
    Raises:
        Replayed: the same was asked and answered meanwhile; raising it rolls this request's work back.
    """
    body = getattr(response, "body", None)  # a stream has none, and is not repeated
    if response.status_code >= 300 or body is None:
        return
    sha256 = promise.sha256 or _digest(request, getattr(request.state, "content_sha256", "").encode())
    content = json.loads(body) if body else {}
    kept = {name: None if name in _SECRETS else value for name, value in content.items()}
    answer = identity.Answer(status=response.status_code, body=kept)
    tx: Tx | None = getattr(request.state, "transaction", None)
    if tx is not None:
        _remember(tx, promise, sha256, answer)
        return
    with promise.database.transaction() as tx:  # a route that works in transactions of its own
        _remember(tx, promise, sha256, answer)


def _remember(tx: Tx, promise: _Promise, sha256: str, answer: identity.Answer) -> None:
    known = identity.replayed(tx, promise.key, project=promise.project, request_sha256=sha256)
    if known is not None:
        raise Replayed(known)
    identity.remember(tx, promise.key, answer, project=promise.project, request_sha256=sha256)


def is_dry_run(request: Request) -> bool:
    return request.query_params.get("dry_run", "false").lower() in {"true", "1", "on", "yes", "t", "y"}


def _check(key: str) -> None:
    if not (1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        detail = f"a key has 1 to {MAX_KEY_LENGTH} printable characters, this one has {len(key)}"
        problem = Problem(pointer="header Idempotency-Key", code="bad_key", detail=detail)
        raise InvalidRequest(f"Idempotency-Key: {detail}", [problem])


def _digest(request: Request, content: bytes) -> str:
    parts = [request.method, request.url.path, request.url.query]
    return hashlib.sha256(json.dumps(parts).encode() + b"\n" + content).hexdigest()


def _canonical(body: bytes) -> bytes:
    """The same for JSON that says the same; anything else as it is, for the route to judge."""
    try:
        return json.dumps(from_json(body), sort_keys=True, separators=(",", ":")).encode()
    except ValueError:
        return body
