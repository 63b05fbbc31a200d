"""A JSON body becomes a JobSpec, or an answer that names every wrong place.

Read here and not by FastAPI: FastAPI reads bodies before it asks for the key, without a limit, and names places by
its own internals.
"""

from typing import Annotated, Any

from bitsmith_core.errors import InvalidSpec
from bitsmith_core.spec import JobSpec
from fastapi import Depends
from fastapi.requests import Request
from pydantic import ValidationError
from pydantic_core import from_json

from bitsmith_api.deps.pointers import problems_of
from bitsmith_api.errors import MalformedRequest, PayloadTooLarge, UnsupportedMediaType

MAX_BODY_BYTES = 2**20  # a spec has a few kilobytes


async def _spec(request: Request) -> JobSpec:
    value = _parsed(await _body(request))
    try:
        return JobSpec.model_validate(value)
    except ValidationError as error:
        problems = problems_of(JobSpec, error.errors(include_url=False, include_input=False))
        first = problems[0]
        raise InvalidSpec(f"{first.pointer or 'the request'}: {first.detail}", problems) from error


CheckedSpec = Annotated[JobSpec, Depends(_spec)]

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
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}, "example": _EXAMPLE}},
    }
}
"""OpenAPI's word for CheckedSpec, which FastAPI cannot see."""


async def _body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"send the body as application/json, not as {media_type or 'nothing in particular'}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PayloadTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _parsed(body: bytes) -> object:
    try:
        parsed: object = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from error
    return parsed
