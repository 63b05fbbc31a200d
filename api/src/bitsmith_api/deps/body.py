"""A JSON body becomes a JobRequest, or an answer that names every wrong place.

Read here and not by FastAPI: FastAPI reads bodies before it asks for the key, without a limit, and names places by
its own internals.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from bitsmith_core.errors import Invalid, InvalidSpec, Problem
from bitsmith_core.spec import JobRequest
from fastapi import Depends
from fastapi.requests import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from bitsmith_api.deps.pointers import problems_of
from bitsmith_api.errors import InvalidRequest, MalformedRequest, PayloadTooLarge, UnsupportedMediaType

Model = TypeVar("Model", bound=BaseModel)

MAX_BODY_BYTES = 2**20  # a spec has a few kilobytes


def job_request(body: bytes) -> JobRequest:
    """
    Raises:
        InvalidSpec: naming every wrong place.
    """
    return _checked(JobRequest, body, refusal=InvalidSpec)


async def _job_request(request: Request) -> JobRequest:
    return job_request(await _json(request))


CheckedRequest = Annotated[JobRequest, Depends(_job_request)]


async def _changes(request: Request) -> dict[str, Any]:
    if not await read_body(request):
        return {}
    value = _parsed(await _body(request))
    if not isinstance(value, dict):
        raise InvalidRequest("the request: expected a JSON object", [_NOT_AN_OBJECT])
    return value


Changes = Annotated[dict[str, Any], Depends(_changes)]
"""A JSON object, or nothing at all."""

_NOT_AN_OBJECT = Problem(pointer="", code="not_an_object", detail="expected a JSON object")


def json_body(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency: the JSON body as this model; `body_schema` is OpenAPI's word for it."""

    async def checked(request: Request) -> Model:
        return _checked(model, await _json(request), refusal=InvalidRequest)

    return checked


def _checked(model: type[Model], body: bytes, *, refusal: type[Invalid]) -> Model:
    """As strict as JSON: true is no number and "5" none either. From the text, in which an enum is its value."""
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        problems = problems_of(model, error.errors(include_url=False, include_input=False))
        first = problems[0]
        raise refusal(f"{first.pointer or 'the request'}: {first.detail}", problems) from error


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """For a route's openapi_extra. Models within the model are those that answers have too."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_EXAMPLE = {
    "model": "hf:org/name",
    "training_file": "file-0kp1p4n3vtsu5qc1q0o8g0a4lk",
    "validation_file": "file-0kp1p4n3vtsu5qc1q0o8g0a4ll",
    "suffix": "support",
    "method": {
        "type": "qsft",
        "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 2.5}, "training": {"epochs": 2}},
    },
}

SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}, "example": _EXAMPLE}},
    }
}
"""OpenAPI's word for CheckedRequest, which FastAPI cannot see."""


async def _body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"send the body as application/json, not as {media_type or 'nothing in particular'}")
    return await read_body(request)


async def _json(request: Request) -> bytes:
    """
    Raises:
        MalformedRequest: it is not JSON.
    """
    body = await _body(request)
    _parsed(body)
    return body


async def read_body(request: Request) -> bytes:
    """All of it, once: whoever asks again gets the same bytes.

    Raises:
        PayloadTooLarge: it has more than MAX_BODY_BYTES.
    """
    known: bytes | None = getattr(request.state, "body", None)
    if known is not None:
        return known
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    request.state.body = bytes(body)
    return request.state.body  # type: ignore[no-any-return]  # a state holds anything


def _parsed(body: bytes) -> object:
    try:
        parsed: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error
    return parsed
