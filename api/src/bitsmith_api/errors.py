"""The one place that knows HTTP statuses: errors become problem documents (RFC 9457) that OpenAI clients read too.

The class of an error decides its status, its message is the detail. What a server of ours said is logged,
not answered: a client can neither use it nor should see it.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Self

from bitsmith_core.errors import (
    BitsmithError,
    Conflict,
    Forbidden,
    GateRefused,
    IdempotencyMismatch,
    Invalid,
    NotFound,
    Permanent,
    PreconditionFailed,
    Problem,
    QuotaExceeded,
    StillAnswering,
    Transient,
    Unauthorized,
)
from bitsmith_core.log import get_logger, without_secrets
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
MAX_DETAIL = 1000  # characters; a detail may quote the input


class MalformedRequest(Permanent):
    """The bytes are not what their content type says."""

    code = "malformed_request"


class InvalidRequest(Invalid):
    """A query parameter, header or form part that makes no sense."""

    code = "invalid_request"

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> Self:
        """One place is wrong: `query limit`, `header If-Match`, `form purpose`, …"""
        return cls(f"{pointer}: {detail}", [Problem(pointer=pointer, code=code, detail=detail)])


class PreconditionRequired(Permanent):
    """A change that must say what it saw before."""

    code = "precondition_required"


class PayloadTooLarge(Permanent):
    code = "payload_too_large"


class UnsupportedMediaType(Permanent):
    code = "unsupported_media_type"


class TooManyRequests(Transient):
    """This key has asked too often lately."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class HubNotFound(NotFound):
    """What Hugging Face's clients must hear in their own words."""

    hub_code: ClassVar[str]

    def __init__(self, message: str, *, commit: str | None = None) -> None:
        super().__init__(message)
        self.commit = commit  # with it they remember that a file is not there


class RepoNotFound(HubNotFound):
    hub_code = "RepoNotFound"


class RevisionNotFound(HubNotFound):
    hub_code = "RevisionNotFound"


class EntryNotFound(HubNotFound):
    hub_code = "EntryNotFound"


STATUS: dict[type[BitsmithError], int] = {
    MalformedRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PreconditionFailed: 412,
    PayloadTooLarge: 413,
    UnsupportedMediaType: 415,
    Invalid: 422,
    IdempotencyMismatch: 422,
    PreconditionRequired: 428,
    TooManyRequests: 429,
    QuotaExceeded: 429,
    Transient: 503,
}

_TITLES: dict[int, str] = {
    400: "The request cannot be read",
    401: "A valid API key is needed",
    403: "This API key may not do that",
    404: "There is no such thing",
    405: "This method is not for this address",
    409: "The present state forbids it",
    412: "It changed meanwhile",
    413: "The request is too large",
    415: "This content type is not accepted",
    422: "The request asks for something impossible",
    428: "The request must say which state it changes",
    429: "That is more than this key or its project may have now",
    500: "The server made a mistake",
    503: "The service is not ready",
}


class ProblemPlace(BaseModel):
    """One place in the request that is wrong."""

    pointer: str = Field(
        description="JSON pointer into the body, `line 7` of the file, or `query limit`, `header Last-Event-ID`, …",
        examples=["/method/qsft/quantization/bpw"],
    )
    code: str
    detail: str


class OpenAIError(BaseModel):
    """The same error as OpenAI's clients expect it."""

    message: str
    type: str
    param: str | None
    code: str


class ProblemDocument(BaseModel):
    """RFC 9457, with the member `error` for OpenAI's clients."""

    type: str = Field(examples=["urn:bitsmith:error:not_found"])
    title: str
    status: int
    detail: str = Field(description="what happened and what to do, for a person")
    instance: str = Field(description="path of the request")
    code: str = Field(description="stable, for machines", examples=["not_found"])
    errors: list[ProblemPlace] = Field(description="every place that is wrong, where the error has places")
    request_id: str = Field(description="also in the header X-Request-Id; name it when you report a problem")
    retryable: bool = Field(description="whether the same request may succeed later")
    error: OpenAIError
    gate: dict[str, Any] | None = Field(default=None, description="of gate_refused only: what was compared and found")


def status_of(kind: type[BitsmithError]) -> int | None:
    """The status of the nearest class that has one."""
    return next((STATUS[parent] for parent in kind.__mro__ if parent in STATUS), None)


def install(app: FastAPI) -> None:
    app.add_exception_handler(BitsmithError, _on_bitsmith_error)
    app.add_exception_handler(RequestValidationError, _on_bad_parameters)
    app.add_exception_handler(HTTPException, _on_http_exception)


def unexpected(*, path: str, request_id: str) -> JSONResponse:
    """The answer to what nobody foresaw; the log has the rest under the same request id."""
    return _response(
        500,
        "internal_error",
        "Something went wrong on our side; the log names the cause under this request id.",
        path=path,
        request_id=request_id,
    )


async def _on_bitsmith_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BitsmithError)
    status = status_of(type(error))
    if status is None:
        raise error
    headers: dict[str, str] = {}
    detail = str(error)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="bitsmith"'
    headers |= _for_the_hubs_clients(request, error)
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, StillAnswering):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif isinstance(error, QuotaExceeded | Conflict):
        headers["X-Should-Retry"] = "false"  # OpenAI's clients try again by themselves, within seconds: too soon
    if status == 503:
        get_logger().warning("request.unavailable", code=error.code, error=str(error))
        headers["Retry-After"] = str(RETRY_AFTER_S)
        detail = f"A server that this request needs does not answer; try again in {RETRY_AFTER_S} seconds."
    if isinstance(error, PayloadTooLarge):
        headers["Connection"] = "close"  # the rest of the body is not read
    places = error.problems if isinstance(error, Invalid) else ()
    is_retryable = isinstance(error, Transient | StillAnswering)
    gate = error.report if isinstance(error, GateRefused) else None
    return answer(request, status, error.code, detail, places, headers=headers, retryable=is_retryable, gate=gate)


def _for_the_hubs_clients(request: Request, error: BitsmithError) -> dict[str, str]:
    """The headers by which huggingface_hub tells its exceptions apart.

    Like the hub itself: whoever shows no key hears that there is no such repository, a wrong key hears what is wrong.
    """
    message = re.sub(r"[^ -~]", "?", _shortened(str(error)))  # it quotes the request, and a header takes less
    if isinstance(error, HubNotFound):
        commit = {"X-Repo-Commit": error.commit} if error.commit else {}
        return {"X-Error-Code": error.hub_code, "X-Error-Message": message, **commit}
    if isinstance(error, Unauthorized) and request.url.path.startswith("/hub/"):
        has_shown_a_key = "authorization" in request.headers
        return (
            {"X-Error-Message": "Invalid credentials in Authorization header"}
            if has_shown_a_key
            else {"X-Error-Code": RepoNotFound.hub_code, "X-Error-Message": message}
        )
    return {}


async def _on_bad_parameters(request: Request, error: Exception) -> JSONResponse:
    """Query, path and header parameters; bodies are read and judged in bitsmith_api.deps."""
    assert isinstance(error, RequestValidationError)
    problems = [
        Problem(pointer=" ".join(str(part) for part in item["loc"][:2]), code=item["type"], detail=item["msg"])
        for item in error.errors()
    ]
    detail = f"{problems[0].pointer}: {problems[0].detail}"
    return answer(request, 422, InvalidRequest.code, detail, problems)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    details = {
        404: f"There is nothing at {request.url.path}; /docs lists what there is.",
        405: f"{request.method} is not possible at {request.url.path}.",
    }
    code = HTTPStatus(error.status_code).name.lower()
    return answer(
        request, error.status_code, code, details.get(error.status_code, error.detail), headers=error.headers or {}
    )


def answer(
    request: Request,
    status: int,
    code: str,
    detail: str,
    places: Sequence[Problem] = (),
    *,
    headers: Mapping[str, str] | None = None,
    retryable: bool = False,
    gate: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """A problem document about this request."""
    return _response(
        status,
        code,
        detail,
        places,
        path=request.url.path,
        request_id=request.state.request_id,
        headers=headers,
        retryable=retryable,
        gate=gate,
    )


def _response(
    status: int,
    code: str,
    detail: str,
    places: Sequence[Problem] = (),
    *,
    path: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    retryable: bool = False,
    gate: Mapping[str, Any] | None = None,
) -> JSONResponse:
    document = ProblemDocument(
        type=f"urn:bitsmith:error:{code}",
        title=_TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=_shortened(detail),
        instance=without_secrets(path),
        code=code,
        errors=[ProblemPlace(pointer=_shortened(p.pointer), code=p.code, detail=_shortened(p.detail)) for p in places],
        request_id=request_id,
        retryable=retryable,
        error=OpenAIError(
            message=_shortened(detail), type=_openai_type(status), param=_openai_param(places), code=code
        ),
    )
    if gate is not None:
        document.gate = dict(gate)
    return JSONResponse(
        document.model_dump(exclude_unset=True),
        status_code=int(status),
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def _shortened(text: str) -> str:
    text = without_secrets(text)  # a detail quotes what was sent, which may be a key in the wrong place
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]}… ({len(text)} characters in all)"


def _openai_type(status: int) -> str:
    if status >= 500:
        return "server_error"
    return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error"
    )


def _openai_param(places: Sequence[Problem]) -> str | None:
    """The field's name as OpenAI writes it: method.qsft.training, purpose; None if no field is at fault."""
    if not places or places[0].pointer.startswith("line "):
        return None
    pointer = without_secrets(places[0].pointer)
    name = pointer[1:].replace("/", ".") if pointer.startswith("/") else pointer.rpartition(" ")[2]
    return name or None


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's entries for the problems a route may answer with; bitsmith_api.app adds the schema they name.

    Whoever asks for a key (401) also asks what it may do (403) and how often it came (429).
    """
    if 401 in statuses:
        statuses = tuple(sorted({*statuses, 403, 429}))
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _TITLES[status], "content": content} for status in statuses}
