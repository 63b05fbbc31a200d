"""More requests than threads and connections wait for each other's end, not for each other."""

import asyncio
from collections import Counter

import anyio.to_thread
import httpx
import pytest
from bitsmith_core.db import Database
from bitsmith_core.settings import DatabaseSettings
from bitsmith_core.storage import S3Store
from fastapi import FastAPI

from tests.api.conftest import AUTHORIZED, Platform, application

THREADS = 12  # one more than there are connections
REQUESTS = 40


@pytest.fixture
def path(request: pytest.FixtureRequest, platform: Platform) -> str:
    match request.param:
        case "job":
            return f"/v1/fine_tuning/jobs/{platform.submit()}"
        case "file":
            return f"/v1/files/{platform.upload()}"
        case _:
            answer = platform.client.post("/v1/webhooks", json={"url": "https://1.1.1.1/"})
            return f"/v1/webhooks/{answer.json()['id']}"


@pytest.mark.parametrize("path", ["job", "file", "webhook"], indirect=True)
def test_everybody_in_a_crowd_is_answered(path: str, database_settings: DatabaseSettings, store: S3Store) -> None:
    database = Database(database_settings.model_copy(update={"pool_size": 1}))
    app = application(database, store)
    try:
        assert asyncio.run(_statuses(app, path)) == {200: REQUESTS}
    finally:
        database.close()


async def _statuses(app: FastAPI, path: str) -> Counter[int]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=AUTHORIZED, timeout=60) as client:
        answers = await asyncio.gather(*(client.get(path) for _ in range(REQUESTS)))
    return Counter(answer.status_code for answer in answers)
