"""Engines: one for each model, ended when memory is short or nobody asks, and never in the middle of an answer."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
from bitsmith_core.chat import Delta, Done, Order, Refused
from bitsmith_core.storage import S3Store
from bitsmith_serving.cache import ModelCache
from bitsmith_serving.errors import Busy, EngineFailed, NoAnswer, TooLarge
from bitsmith_serving.pool import PROCESS_BYTES, Pool
from bitsmith_serving.settings import ServingSettings
from pydantic import SecretStr

from tests.serving.conftest import Publish

ENGINE = (sys.executable, str(Path(__file__).parent / "scripted_engine.py"))
ONE = PROCESS_BYTES + 100  # what a scripted engine reserves
Part = Delta | Done | Refused
WithPool = Callable[..., None]


@pytest.fixture
def with_pool(store: S3Store, tmp_path: Path) -> WithPool:
    """with_pool(scenario, memory_bytes=…) runs an async function with a pool of scripted engines."""

    def run(scenario: Callable[[Pool], Awaitable[None]], **changes: Any) -> None:
        options: dict[str, Any] = {"memory_bytes": 10 * ONE, "engine_memory_bytes": ONE, "load_within_s": 20}
        settings = ServingSettings(
            token=SecretStr("token-for-tests"), cache=tmp_path / "cache", engine=ENGINE, **(options | changes)
        )

        async def inside() -> None:
            cache = ModelCache(tmp_path / "cache", store, limit_bytes=10**9, patience_s=0)
            pool = Pool(settings, cache, tmp_path / "logs")
            try:
                await asyncio.wait_for(scenario(pool), 60)
            finally:
                await pool.close()

        asyncio.run(inside())

    return run


async def parts_of(answer: AsyncGenerator[Part, None]) -> list[Part]:
    async with aclosing(answer):
        return [part async for part in answer]


async def text_of(pool: Pool, order: Order) -> str:
    return "".join(part.text for part in await parts_of(pool.answer(order)) if isinstance(part, Delta))


def running(pool: Pool) -> set[str]:
    return {slot.model for slot in pool.slots if slot.engine is not None and slot.engine.is_alive}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def heard(tmp_path: Path, order: Order) -> list[dict[str, Any]]:
    lines = (tmp_path / "cache" / order.manifest_sha256 / "heard.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_requests_for_one_model_share_one_process(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", words=["x", "y"], load_s=0.2)

    async def scenario(pool: Pool) -> None:
        assert await asyncio.gather(*(text_of(pool, order) for _ in range(5))) == ["xy"] * 5
        (slot,) = pool.slots
        assert slot.users == 0
        assert slot.engine is not None
        assert (await parts_of(pool.answer(order)))[-1].model_dump(exclude={"id"}) == {
            "type": "done", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 2,
        }  # fmt: skip
        assert pool.slots[0].engine is slot.engine

    with_pool(scenario)


def test_the_least_recently_used_engine_makes_room(with_pool: WithPool, publish: Publish) -> None:
    a, b, c = (publish(name, words=[name]) for name in "abc")

    async def scenario(pool: Pool) -> None:
        for order, expected in ((a, "a"), (b, "b"), (a, "a"), (c, "c")):
            assert await text_of(pool, order) == expected
        assert running(pool) == {"a@1", "c@1"}

    with_pool(scenario, memory_bytes=2 * ONE + 10)


def test_an_engine_that_answers_is_not_ended_for_another_model(with_pool: WithPool, publish: Publish) -> None:
    slow, other = publish("slow", words=["s"] * 10, pause_s=0.1), publish("other", words=["o"])

    async def scenario(pool: Pool) -> None:
        first = asyncio.create_task(text_of(pool, slow))
        await until(lambda: running(pool) == {"slow@1"})
        assert await text_of(pool, other) == "o"
        assert first.done()  # it waited, and nobody was cut off
        assert first.result() == "s" * 10
        assert running(pool) == {"other@1"}

    with_pool(scenario, memory_bytes=ONE + 10)


def test_who_waits_too_long_for_memory_is_told(with_pool: WithPool, publish: Publish) -> None:
    slow, other = publish("slow", words=["s"] * 30, pause_s=0.1), publish("other")

    async def scenario(pool: Pool) -> None:
        first = asyncio.create_task(text_of(pool, slow))
        await until(lambda: running(pool) == {"slow@1"})
        with pytest.raises(Busy, match="in use"):
            await text_of(pool, other)
        assert await first == "s" * 30

    with_pool(scenario, memory_bytes=ONE + 10, load_within_s=1)


def test_a_model_that_can_never_fit_is_refused_at_once(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m")

    async def scenario(pool: Pool) -> None:
        with pytest.raises(TooLarge, match="BITSMITH_SERVING_MEMORY_BYTES"):
            await text_of(pool, order)

    with_pool(scenario, memory_bytes=PROCESS_BYTES)


def test_an_engine_that_needs_more_than_its_files_gets_others_room(with_pool: WithPool, publish: Publish) -> None:
    small, large = publish("small"), publish("large", words=["l"], needs_bytes=250, memory_bytes=300)

    async def scenario(pool: Pool) -> None:
        await text_of(pool, small)
        assert await text_of(pool, large) == "l"
        assert running(pool) == {"large@1"}

    with_pool(scenario, memory_bytes=2 * PROCESS_BYTES + 300, engine_memory_bytes=PROCESS_BYTES + 300)


def test_an_idle_engine_is_ended(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", words=["x"])

    async def scenario(pool: Pool) -> None:
        await text_of(pool, order)
        engine = pool.slots[0].engine
        assert engine is not None
        await until(lambda: not pool.slots)
        await until(lambda: not psutil.pid_exists(engine.pid))
        assert await text_of(pool, order) == "x"

    with_pool(scenario, idle_unload_s=0.5)


def test_memory_is_free_when_the_engine_that_had_it_is_gone(with_pool: WithPool, publish: Publish) -> None:
    stubborn, other = publish("stubborn", words=["s"], is_stubborn=True), publish("other", words=["o"])

    async def scenario(pool: Pool) -> None:
        await text_of(pool, stubborn)
        engine = pool.slots[0].engine
        assert engine is not None
        await until(lambda: not pool.slots)  # nobody asked for a while: it is being ended, and takes its time
        assert engine.is_alive
        assert await text_of(pool, other) == "o"
        assert not engine.is_alive

    with_pool(scenario, memory_bytes=ONE + 10, idle_unload_s=0.5)


def test_an_engine_that_dies_ends_its_answer_and_is_replaced(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", words=["x", "y"], dies_after=1)

    async def scenario(pool: Pool) -> None:
        for _ in range(2):
            text, last = await parts_of(pool.answer(order))
            assert isinstance(text, Delta)
            assert isinstance(last, Refused)
            assert (last.code, last.is_retryable) == ("engine_died", True)

    with_pool(scenario)


def test_everybody_who_waits_hears_why_a_model_does_not_load(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", fails="its codes are damaged")

    async def scenario(pool: Pool) -> None:
        errors = await asyncio.gather(*(text_of(pool, order) for _ in range(3)), return_exceptions=True)
        assert {(type(error), str(error)) for error in errors} == {(EngineFailed, "its codes are damaged")}
        assert not pool.slots

    with_pool(scenario)


def test_an_answer_that_nobody_wants_any_more_is_cancelled(
    with_pool: WithPool, publish: Publish, tmp_path: Path
) -> None:
    order = publish("m", words=["x"] * 1000, pause_s=0.02)

    async def scenario(pool: Pool) -> None:
        answer = pool.answer(order)
        await anext(answer)
        await answer.aclose()
        assert pool.slots[0].users == 0
        await until(lambda: [line["type"] for line in heard(tmp_path, order)] == ["ask", "cancel"])
        assert [line["id"] for line in heard(tmp_path, order)] == ["0", "0"]

    with_pool(scenario)


def test_more_requests_than_may_wait_are_refused(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", words=["x"], load_s=0.5)

    async def scenario(pool: Pool) -> None:
        results = await asyncio.gather(*(text_of(pool, order) for _ in range(4)), return_exceptions=True)
        assert results[:2] == ["x", "x"]
        assert [type(result) for result in results[2:]] == [Busy, Busy]

    with_pool(scenario, max_waiting=2)


def test_a_request_that_gives_up_while_loading_leaves_the_others_alone(with_pool: WithPool, publish: Publish) -> None:
    order = publish("m", words=["x"], load_s=0.5)

    async def scenario(pool: Pool) -> None:
        impatient = asyncio.create_task(text_of(pool, order))
        patient = asyncio.create_task(text_of(pool, order))
        await asyncio.sleep(0.2)
        impatient.cancel()
        assert await patient == "x"
        assert pool.slots[0].users == 0

    with_pool(scenario)


def test_engines_see_no_credentials(with_pool: WithPool, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_STORAGE_SECRET_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    order = publish("m", words=["x"] * 100, pause_s=0.05)

    async def scenario(pool: Pool) -> None:
        answer = pool.answer(order)
        await anext(answer)
        engine = pool.slots[0].engine
        assert engine is not None
        environment = psutil.Process(engine.pid).environ()
        assert not {"BITSMITH_STORAGE_SECRET_KEY", "HF_TOKEN"} & set(environment)
        assert environment["HF_HUB_OFFLINE"] == "1"
        await answer.aclose()

    with_pool(scenario)


def test_every_reason_is_an_error_with_a_code() -> None:
    assert len({kind.code for kind in NoAnswer.__subclasses__()}) == len(NoAnswer.__subclasses__())
