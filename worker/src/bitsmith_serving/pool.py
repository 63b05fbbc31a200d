"""Which engines run: one for each model that is asked for, the least recently used ended when memory is short.

All of it happens in one event loop, so between two awaits nothing changes; what must not overlap (starting engines,
making room) is behind one lock.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bitsmith_core.bundle import StoredFile
from bitsmith_core.chat import Delta, Done, Order, Refused
from bitsmith_core.engines import engine_environment
from bitsmith_core.log import get_logger

from bitsmith_serving.cache import ModelCache, files_for_chat, weights_bytes
from bitsmith_serving.engine import Engine, start_engine
from bitsmith_serving.errors import Busy, EngineFailed, NoAnswer, TooLarge
from bitsmith_serving.settings import ServingSettings

log = get_logger()

PROCESS_BYTES = 400 * 2**20  # an engine without a model: Python, torch, and its CUDA context or thread pools
_LOOK_EVERY_S = 1.0


@dataclass(slots=True, kw_only=True)
class Slot:
    """A model that is asked for. `engine` is None while it is fetched and loaded."""

    manifest_sha256: str
    model: str
    starting: asyncio.Task[Engine]
    engine: Engine | None = None
    reserved_bytes: int = 0
    users: int = 0  # requests that wait for it or are being answered
    used_at: float = field(default_factory=time.monotonic)
    stage: str = "fetching"

    @property
    def is_idle(self) -> bool:
        return self.engine is not None and self.users == 0


class Pool:
    """
    Args:
        logs: folder for the engines' stderr.
    """

    def __init__(self, settings: ServingSettings, cache: ModelCache, logs: Path) -> None:
        self._settings, self._cache, self._logs = settings, cache, logs
        self._slots: dict[str, Slot] = {}
        self._ending_bytes = 0  # of engines that no order finds any more, until their processes are gone
        self._starting = asyncio.Lock()
        self._changed = asyncio.Event()  # somebody became idle, or went
        self._janitor = asyncio.create_task(self._end_idle_ones())
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def slots(self) -> Sequence[Slot]:
        return list(self._slots.values())

    def stage_of(self, manifest_sha256: str) -> str:
        """What somebody who waits for this model is waiting for."""
        slot = self._slots.get(manifest_sha256)
        return "queued" if slot is None or slot.engine is not None else slot.stage

    async def answer(self, order: Order) -> AsyncGenerator[Delta | Done | Refused, None]:
        """Deltas, then one Done or Refused. Closing it stops the generation.

        Raises:
            NoAnswer
        """
        slot = self._slot(order)
        if slot.users >= self._settings.max_waiting:
            raise Busy(f"{slot.users} requests wait for {order.model} already; try again in a moment")
        slot.users += 1
        try:
            # Shielded: another request may wait for the same engine when this one is given up.
            engine = await asyncio.shield(slot.starting)
            answer = engine.answer(order.prompt)
            try:
                async for part in answer:
                    yield part
            finally:
                await answer.aclose()
        finally:
            slot.users -= 1
            slot.used_at = time.monotonic()
            self._changed.set()

    async def close(self) -> None:
        self._janitor.cancel()
        for slot in self.slots:
            await self._end(slot)

    def _slot(self, order: Order) -> Slot:
        slot = self._slots.get(order.manifest_sha256)
        if slot is not None and slot.engine is not None and not slot.engine.is_alive:
            log.warning("engine.replaced", model=order.model)
            del self._slots[order.manifest_sha256]
            slot = None
        if slot is None:
            files = files_for_chat(order.files)
            slot = Slot(
                manifest_sha256=order.manifest_sha256,
                model=order.model,
                starting=asyncio.create_task(self._start(order, files)),
            )
            slot.starting.add_done_callback(_heard)
            self._slots[order.manifest_sha256] = slot
        return slot

    async def _start(self, order: Order, files: Sequence[StoredFile]) -> Engine:
        slot = self._slots[order.manifest_sha256]
        try:
            folder = await asyncio.to_thread(self._cache.fetch, order.manifest_sha256, files)
            slot.stage = "waiting_for_memory"
            async with self._starting:
                slot.engine = await self._started(slot, folder, files)
            slot.reserved_bytes = slot.engine.ready.memory_bytes + PROCESS_BYTES
            await asyncio.to_thread(self._cache.drop_old, is_in_use=self._slots.__contains__)
            return slot.engine
        except BaseException:
            # The next request begins anew; whoever waits now hears why.
            self._slots.pop(order.manifest_sha256, None)
            self._changed.set()
            raise

    async def _started(self, slot: Slot, folder: Path, files: Sequence[StoredFile]) -> Engine:
        give_up_at = time.monotonic() + self._settings.load_within_s
        needed = weights_bytes(files)
        if needed > self._settings.one_engine_bytes:
            raise TooLarge(
                f"{slot.model} has {needed} bytes of weights, and one engine may take "
                f"{self._settings.one_engine_bytes}; raise BITSMITH_SERVING_ENGINE_MEMORY_BYTES"
            )
        while True:
            await self._make_room(needed + PROCESS_BYTES, give_up_at)
            slot.stage = "loading"
            granted = min(self._settings.one_engine_bytes, self._free_bytes() - PROCESS_BYTES)
            slot.reserved_bytes = granted + PROCESS_BYTES
            try:
                return await start_engine(
                    self._command(folder, granted),
                    environment=engine_environment(os.environ),
                    log_file=self._logs / f"{slot.manifest_sha256}.log",
                    ready_within_s=max(1.0, give_up_at - time.monotonic()),
                )
            except EngineFailed as error:
                slot.reserved_bytes = 0
                if error.reason != "out_of_space" or granted >= self._settings.one_engine_bytes:
                    raise
                # Caches and unpacked 16-bit weights take more than the files say: with another engine's room it may do.
                needed = granted + 1

    def _command(self, folder: Path, granted_bytes: int) -> list[str]:
        settings = self._settings
        options = {
            "device": settings.device,
            "context-tokens": settings.context_tokens,
            "parallel": settings.parallel,
            "memory-bytes": granted_bytes,
        }
        return [*settings.engine, str(folder), *(f"--{name}={value}" for name, value in options.items())]

    def _free_bytes(self) -> int:
        reserved = sum(slot.reserved_bytes for slot in self._slots.values())
        return self._settings.memory_bytes - reserved - self._ending_bytes

    async def _make_room(self, needed_bytes: int, give_up_at: float) -> None:
        """End idle engines until so much is free, least recently used first; wait while all are busy."""
        if needed_bytes > self._settings.memory_bytes:
            raise TooLarge(
                f"the model needs {needed_bytes} bytes, and all engines together may take "
                f"{self._settings.memory_bytes}; raise BITSMITH_SERVING_MEMORY_BYTES"
            )
        while self._free_bytes() < needed_bytes:
            idle = sorted((slot for slot in self._slots.values() if slot.is_idle), key=lambda slot: slot.used_at)
            if idle:
                log.info("engine.evicted", model=idle[0].model)
                await self._end(idle[0])
                continue
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), give_up_at - time.monotonic())
            except TimeoutError as error:
                raise Busy("all memory is taken by models that are in use; try again later") from error

    async def _end(self, slot: Slot) -> None:
        if self._slots.get(slot.manifest_sha256) is slot:
            del self._slots[slot.manifest_sha256]
        slot.starting.cancel()
        with suppress(NoAnswer, asyncio.CancelledError):
            await slot.starting
        if slot.engine is not None:
            self._ending_bytes += slot.reserved_bytes
            try:
                await slot.engine.stop()
            finally:
                self._ending_bytes -= slot.reserved_bytes
        self._changed.set()

    async def _end_idle_ones(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for slot in self.slots:
                idle_s = time.monotonic() - slot.used_at
                if slot.is_idle and idle_s > self._settings.idle_unload_s:
                    log.info("engine.unloaded", model=slot.model, idle_s=round(idle_s))
                    await self._end(slot)


def _heard(task: asyncio.Task[Engine]) -> None:
    """Everybody who waited may have left before it failed; asyncio would complain that nobody looked."""
    if not task.cancelled():
        task.exception()
