"""A multipart upload on its way to disk: counted as it comes, refused as soon as it cannot be good.

Read here and not by FastAPI, which would take the whole body, however large, before asking for the key.
"""

import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from bitsmith_core import files
from fastapi import Depends
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from python_multipart.multipart import parse_options_header

from bitsmith_api.deps.multipart import OVERHEAD_BYTES, Form, bad_part
from bitsmith_api.deps.services import SharedServices
from bitsmith_api.errors import MalformedRequest, PayloadTooLarge, UnsupportedMediaType

_WRITE_BYTES = 2**20
_STAYS = "a file stays until it is deleted; leave this out and delete the file when you no longer need it"
_FILE_FIELDS = {"purpose": None, "expires_after[anchor]": _STAYS, "expires_after[seconds]": _STAYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    path: Path  # lives as long as the request
    filename: str
    purpose: files.Purpose
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    path: Path  # lives as long as the request
    size_bytes: int


async def _received(request: Request, services: SharedServices) -> AsyncIterator[Upload]:
    limit = services.settings.max_upload_bytes
    async with _on_disk(request, file_part="file", fields=_FILE_FIELDS, limit=limit) as (form, path):
        assert form.filename is not None
        files.check_name(form.filename)
        purpose = _checked_purpose(form.fields.get("purpose"))
        yield Upload(path=path, filename=form.filename, purpose=purpose, size_bytes=form.file_bytes)


async def _received_part(request: Request, services: SharedServices) -> AsyncIterator[Part]:
    limit = services.settings.max_part_bytes
    async with _on_disk(request, file_part="data", fields={}, limit=limit) as (form, path):
        if not form.file_bytes:
            raise bad_part("data", "empty", "a part has at least one byte")
        yield Part(path=path, size_bytes=form.file_bytes)


@asynccontextmanager
async def _on_disk(
    request: Request, *, file_part: str, fields: Mapping[str, str | None], limit: int
) -> AsyncIterator[tuple[Form, Path]]:
    """The form, complete, and its file."""
    boundary = _boundary(request)
    _refuse_announced(request, limit=limit)
    form = Form(boundary, file_part=file_part, fields=fields, max_file_bytes=limit)
    with tempfile.NamedTemporaryFile(prefix="bitsmith-upload-") as file:
        digest = hashlib.sha256()
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += form.feed(chunk)
            if len(waiting) >= _WRITE_BYTES:
                await run_in_threadpool(_take, waiting, file, digest)
        await run_in_threadpool(_take, waiting, file, digest)
        form.check_complete()
        if form.filename is None:
            raise bad_part(file_part, "missing", f"send the file's bytes as the part {file_part!r}, with a filename")
        # What the form says, whatever its boundary: a repeated request is recognised by this.
        said = json.dumps([form.filename, form.fields, digest.hexdigest()], sort_keys=True)
        request.state.content_sha256 = hashlib.sha256(said.encode()).hexdigest()
        yield form, Path(file.name)


def _take(waiting: bytearray, file: IO[bytes], digest: "hashlib._Hash") -> None:
    digest.update(waiting)
    file.write(waiting)
    file.flush()
    waiting.clear()


Received = Annotated[Upload, Depends(_received)]
ReceivedPart = Annotated[Part, Depends(_received_part)]

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
                        "purpose": {"type": "string", "enum": list(files.PURPOSES)},
                    },
                }
            }
        },
    }
}
"""OpenAPI's word for Received, which FastAPI cannot see."""

PART_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary", "description": "the part's bytes"}},
                }
            }
        },
    }
}


def _boundary(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the form as it is: nothing that arrives compressed is unpacked here")
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        sent = media_type.decode("latin-1") or "nothing in particular"
        raise UnsupportedMediaType(f"send a form as multipart/form-data not as {sent}")
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedRequest("the content type names no boundary; let your HTTP client write this header")
    return boundary


def _refuse_announced(request: Request, *, limit: int) -> None:
    """Too large by its own Content-Length: nothing of it is read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit + OVERHEAD_BYTES:
        raise PayloadTooLarge(f"the file is larger than {limit} bytes, the most that is taken")


def _checked_purpose(sent: str | None) -> files.Purpose:
    choice = " or ".join(repr(purpose) for purpose in files.PURPOSES)
    if sent is None:
        raise bad_part("purpose", "missing", f"send the part 'purpose' with the value {choice}")
    for purpose in files.PURPOSES:
        if purpose == sent:
            return purpose
    raise bad_part("purpose", "unknown_choice", f"{sent!r} is not a purpose; send {choice}")
