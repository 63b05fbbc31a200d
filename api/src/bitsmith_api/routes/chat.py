"""Chat with what jobs published: the version is resolved here, and the serving service answers."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from bitsmith_core import registry
from bitsmith_core.bundle import StoredFile
from bitsmith_core.chat import Delta, Done, Order, Refused, Waiting
from bitsmith_core.db import Database
from bitsmith_core.errors import NotFound, Problem
from bitsmith_core.ids import ProjectId, new_chat_id
from bitsmith_core.log import get_logger
from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from bitsmith_api.deps import FromCaller, SharedServices, require
from bitsmith_api.deps.body import json_body
from bitsmith_api.deps.names import parsed_reference
from bitsmith_api.errors import RETRY_AFTER_S, answer, documented
from bitsmith_api.schemas.chat import (
    LAST_EVENT,
    AnswerMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    ChunkDelta,
    Usage,
    event,
    request_body,
)
from bitsmith_api.serving import ServingUnavailable

router = APIRouter(prefix="/v1/chat", tags=["Chat"])  # a repeated question is asked again: nothing is stored

CLIENT_LEFT = 499
LOOK_EVERY_S = 0.5
KEEP_ALIVE = ": the model is not ready yet\n\n"
_PROMPTS_FAULT = {"context_length_exceeded", "unusable_data"}

Reply = Waiting | Delta | Done | Refused


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of one answer begins with."""

    id: str
    created: int
    model: str
    system_fingerprint: str

    def chunk(self, *choices: ChunkChoice, usage: Usage | None = None) -> ChatChunk:
        return ChatChunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=self.system_fingerprint,
            choices=list(choices),
            usage=usage,
        )


class Events(StreamingResponse):
    """Its iterator is closed when the client leaves, not when the garbage is collected."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            assert isinstance(self.body_iterator, AsyncGenerator)
            await self.body_iterator.aclose()


@router.post(
    "/completions",
    summary="Chat with a model",
    dependencies=[require("chat:write")],
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **documented(400, 401, 404, 409, 413, 415, 422, 500, 503),
    },
    openapi_extra=request_body(),
)
async def create_chat_completion(
    request: Request,
    asked: Annotated[ChatRequest, Depends(json_body(ChatRequest))],
    caller: FromCaller,
    services: SharedServices,
) -> Response:
    """Answer a conversation with a version of the registry. With `stream` chunks come as they are written.

    The first request for a model waits until its files are fetched and it is loaded; comments in the stream say so.
    """
    order = await run_in_threadpool(_order, services.database, caller.project, asked)
    head = Head(new_chat_id(), int(time.time()), order.model, f"fp_{order.manifest_sha256[:16]}")
    replies = services.serving.answer(order)
    try:
        if not asked.stream:
            return await _whole(request, head, replies)
        first = await anext(replies)
    except ServingUnavailable as error:
        return _unavailable(request, str(error))
    if isinstance(first, Refused):
        await replies.aclose()
        return _refusal(request, first)
    return Events(
        _chunks(head, first, replies, with_usage=asked.wants_usage),
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def _order(database: Database, project: ProjectId, asked: ChatRequest) -> Order:
    """
    Raises:
        NotFound: the project has no such model or version.
    """
    reference = parsed_reference(asked.model)
    if reference is None:
        raise NotFound(f"there is no model {asked.model!r}: write a name, name@1 or name@alias")
    name, which = reference
    with database.transaction() as tx:
        version = registry.get_version(tx, name, which, project=project)
        return Order(
            model=f"{name}@{version.number}",
            manifest_sha256=version.manifest_sha256,
            files=tuple(StoredFile.model_validate(file, from_attributes=True) for file in version.files),
            prompt=asked.as_prompt(),
        )


async def _whole(request: Request, head: Head, replies: AsyncGenerator[Reply, None]) -> Response:
    """The answer in one piece; given up when nobody waits for it any more."""
    collecting = asyncio.create_task(_collected(replies))
    try:
        while not (await asyncio.wait({collecting}, timeout=LOOK_EVERY_S))[0]:
            if await request.is_disconnected():
                return Response(status_code=CLIENT_LEFT)
        text, last = collecting.result()
    finally:
        if not collecting.done():
            collecting.cancel()
            await asyncio.wait({collecting})
    if isinstance(last, Refused):
        return _refusal(request, last)
    completion = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[Choice(message=AnswerMessage(content=text), finish_reason=_reason(last))],
        usage=Usage.of(last.prompt_tokens, last.completion_tokens),
    )
    return JSONResponse(completion.model_dump())


async def _collected(replies: AsyncGenerator[Reply, None]) -> tuple[str, Done | Refused]:
    texts: list[str] = []
    async with aclosing(replies):
        async for reply in replies:
            if isinstance(reply, Delta):
                texts.append(reply.text)
            elif isinstance(reply, Done | Refused):
                return "".join(texts), reply
    raise AssertionError("an answer ends with a last line or an error")


async def _chunks(
    head: Head, first: Reply, replies: AsyncGenerator[Reply, None], *, with_usage: bool
) -> AsyncGenerator[str, None]:
    try:
        yield head.chunk(ChunkChoice(delta=ChunkDelta(role="assistant", content=""))).as_event(with_usage=with_usage)
        for line in _events(head, first, with_usage=with_usage):
            yield line
        async for reply in replies:
            for line in _events(head, reply, with_usage=with_usage):
                yield line
    except ServingUnavailable as error:  # half an answer is out: only the stream itself can tell
        yield _error_event(error.code, str(error), is_retryable=True)
    finally:
        await replies.aclose()


def _events(head: Head, reply: Reply, *, with_usage: bool) -> list[str]:
    match reply:
        case Waiting():
            return [KEEP_ALIVE]
        case Delta():
            return [head.chunk(ChunkChoice(delta=ChunkDelta(content=reply.text))).as_event(with_usage=with_usage)]
        case Refused():
            return [_error_event(reply.code, reply.message, is_retryable=reply.is_retryable)]
        case Done():
            last = head.chunk(ChunkChoice(delta=ChunkDelta(), finish_reason=_reason(reply)))
            lines = [last.as_event(with_usage=with_usage)]
            if with_usage:
                usage = Usage.of(reply.prompt_tokens, reply.completion_tokens)
                lines.append(head.chunk(usage=usage).as_event(with_usage=True))
            return [*lines, LAST_EVENT]


def _reason(done: Done) -> Any:
    assert done.finish != "cancelled", "nobody but this very request could have cancelled it"
    return done.finish


def _error_event(code: str, message: str, *, is_retryable: bool) -> str:
    kind = "invalid_request_error" if code in _PROMPTS_FAULT else "server_error"
    return event({"error": {"message": message, "type": kind, "param": None, "code": code, "retryable": is_retryable}})


def _refusal(request: Request, refused: Refused) -> Response:
    get_logger().info("chat.refused", code=refused.code)
    if refused.code in _PROMPTS_FAULT:
        place = Problem(pointer="/messages", code=refused.code, detail=refused.message)
        return answer(request, 422, refused.code, refused.message, [place])
    if refused.is_retryable:
        return _unavailable(request, refused.message, code=refused.code)
    # The version as it is, or this installation's limits: asking again does not help.
    return answer(request, 409, refused.code, refused.message)


def _unavailable(request: Request, detail: str, *, code: str = ServingUnavailable.code) -> Response:
    """What an operator should do is the answer: whoever chats is often the one who runs the installation."""
    return answer(request, 503, code, detail, headers={"Retry-After": str(RETRY_AFTER_S)}, retryable=True)
