"""A multipart upload on its way to disk: counted as it comes, refused as soon as it cannot be good.

Read here and not by FastAPI, which would take the whole body, however large, before asking for the key.
"""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from bitsmith_core import files
from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from python_multipart.multipart import parse_options_header

from bitsmith_api.deps.multipart import OVERHEAD_BYTES, Form, bad_part
from bitsmith_api.deps.services import SharedServices
from bitsmith_api.errors import MalformedRequest, PayloadTooLarge, UnsupportedMediaType

_PURPOSES: tuple[files.Purpose, ...] = get_args(files.Purpose)
_WRITE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    path: Path  # lives as long as the request
    filename: str
    purpose: files.Purpose
    size_bytes: int


async def _received(request: Request, services: SharedServices) -> AsyncIterator[Upload]:
    limit = services.settings.max_upload_bytes
    boundary = _boundary(request)
    _refuse_announced(request, limit=limit)
    form = Form(boundary, max_file_bytes=limit)
    with tempfile.NamedTemporaryFile(prefix="bitsmith-upload-") as file:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += form.feed(chunk)
            if len(waiting) >= _WRITE_BYTES:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(file.write, bytes(waiting))
        await run_in_threadpool(file.flush)
        yield _checked(form, Path(file.name))


Received = Annotated[Upload, Depends(_received)]

UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "JSON Lines. For `fine-tune`: one example a line, as `messages`, "
                            "`prompt`/`completion` or `instruction`/`input`/`output`. For `evals`: one document of a "
                            "benchmark a line, a JSON object",
                        },
                        "purpose": {"type": "string", "enum": list(_PURPOSES)},
                    },
                }
            }
        },
    }
}
"""OpenAPI's word for Received, which FastAPI cannot see."""


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        sent = media_type.decode("latin-1") or "nothing in particular"
        raise UnsupportedMediaType(f"send a form as multipart/form-data with file and purpose, not {sent}")
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedRequest("the content type names no boundary; let your HTTP client write this header")
    return boundary


def _refuse_announced(request: Request, *, limit: int) -> None:
    """Too large by its own Content-Length: nothing of it is read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + OVERHEAD_BYTES:
        raise PayloadTooLarge(f"the file is larger than {limit} bytes, the most that is taken")


def _checked(form: Form, path: Path) -> Upload:
    form.check_complete()
    if form.filename is None:
        raise bad_part("file", "missing", "send the file's bytes as the part 'file', with a filename")
    files.check_name(form.filename)
    return Upload(
        path=path,
        filename=form.filename,
        purpose=_checked_purpose(form.fields.get("purpose")),
        size_bytes=form.file_bytes,
    )


def _checked_purpose(sent: str | None) -> files.Purpose:
    choice = " or ".join(repr(purpose) for purpose in _PURPOSES)
    if sent is None:
        raise bad_part("purpose", "missing", f"send the part 'purpose' with the value {choice}")
    for purpose in _PURPOSES:
        if purpose == sent:
            return purpose
    raise bad_part("purpose", "unknown_choice", f"{sent!r} is not a purpose; send {choice}")
