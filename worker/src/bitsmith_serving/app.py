"""The HTTP side: one order in, lines out as they come. Only the platform's API talks to it."""

import asyncio
import hashlib
import hmac
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from bitsmith_core.chat import Delta, Done, Order, Refused, Waiting, encode
from bitsmith_core.log import get_logger
from bitsmith_core.storage import ObjectStore
from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

from bitsmith_serving.cache import ModelCache
from bitsmith_serving.errors import NoAnswer
from bitsmith_serving.pool import Pool
from bitsmith_serving.settings import ServingSettings

log = get_logger()

MEDIA_TYPE = "application/x-ndjson"
WAITING_EVERY_S = 5.0  # whoever waits for a model to load hears that we live


class EngineStatus(BaseModel):
    model: str
    manifest_sha256: str
    stage: str
    pid: int | None
    device: str | None
    context_tokens: int | None
    reserved_bytes: int
    users: int


class Lines(StreamingResponse):
    """Its iterator is closed when the client leaves, not when the garbage is collected."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        finally:
            assert isinstance(self.body_iterator, AsyncGenerator)
            await self.body_iterator.aclose()


def create_app(settings: ServingSettings, store: ObjectStore) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cache = ModelCache(
            settings.cache / "models", store, limit_bytes=settings.cache_bytes, patience_s=settings.store_patience_s
        )
        pool = app.state.pool = Pool(settings, cache, settings.cache / "logs")
        yield
        await pool.close()

    app = FastAPI(title="Bitsmith serving", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    expected = _digest(settings.token.get_secret_value())

    async def guard(request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(token), expected):
            raise HTTPException(401, "this service answers the platform's API only")

    async def pool_of(request: Request) -> Pool:
        pool = request.app.state.pool
        assert isinstance(pool, Pool)
        return pool

    @app.get("/livez")
    @app.get("/readyz")  # the store is asked when a model is
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/engines", dependencies=[Depends(guard)])
    async def engines(pool: Annotated[Pool, Depends(pool_of)]) -> list[EngineStatus]:
        return [
            EngineStatus(
                model=slot.model,
                manifest_sha256=slot.manifest_sha256,
                stage="ready" if slot.engine else slot.stage,
                pid=slot.engine.pid if slot.engine else None,
                device=slot.engine.ready.device if slot.engine else None,
                context_tokens=slot.engine.ready.context_tokens if slot.engine else None,
                reserved_bytes=slot.reserved_bytes,
                users=slot.users,
            )
            for slot in pool.slots
        ]

    @app.post("/v1/generate", dependencies=[Depends(guard)])
    async def generate(order: Order, pool: Annotated[Pool, Depends(pool_of)]) -> Lines:
        return Lines(_encoded(pool, order), media_type=MEDIA_TYPE)

    return app


async def _encoded(pool: Pool, order: Order) -> AsyncGenerator[bytes, None]:
    """The answer's lines, with a Waiting whenever there was none for a while."""
    parts = _without_errors(pool, order)
    following: asyncio.Task[Delta | Done | Refused] | None = None
    try:
        while True:
            following = asyncio.create_task(_next(parts))
            while not (await asyncio.wait({following}, timeout=WAITING_EVERY_S))[0]:
                yield encode(Waiting(reason=pool.stage_of(order.manifest_sha256)))
            part = following.result()
            yield encode(part)
            if not isinstance(part, Delta):
                return
    finally:
        if following is not None and not following.done():
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        await parts.aclose()


async def _next(parts: AsyncGenerator[Delta | Done | Refused, None]) -> Delta | Done | Refused:
    return await anext(parts)


async def _without_errors(pool: Pool, order: Order) -> AsyncGenerator[Delta | Done | Refused, None]:
    answer = pool.answer(order)
    try:
        async for part in answer:
            yield part
    except NoAnswer as error:
        log.warning("order.refused", model=order.model, code=error.code, reason=str(error))
        code = getattr(error, "reason", error.code)
        yield Refused(id="", code=code, message=str(error), is_retryable=error.is_retryable)
    finally:
        await answer.aclose()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
