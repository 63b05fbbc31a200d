"""One chat engine: a process that holds one model, and the requests that it is answering."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bitsmith_core.chat import ENGINE_LINES, Ask, Cancel, Delta, Done, Failed, Prompt, Ready, Refused, encode
from bitsmith_core.log import get_logger
from pydantic import BaseModel, ValidationError

from bitsmith_serving.errors import EngineDied, EngineFailed

log = get_logger()

_LONGEST_LINE = 1 << 20
_STOP_WITHIN_S = 5.0
_EVIDENCE_CHARS = 1000

Part = Delta | Done | Refused


class Engine:
    """Made by start_engine. Cancelling or closing an answer stops its generation."""

    def __init__(self, process: asyncio.subprocess.Process, ready: Ready, log_file: Path) -> None:
        self.ready = ready
        self._process, self._log_file = process, log_file
        self._answers: dict[str, asyncio.Queue[Part]] = {}
        self._ids = itertools.count()
        self._reader = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None and not self._reader.done()

    async def answer(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """Deltas, then one Done or Refused.

        Raises:
            EngineDied
        """
        if not self.is_alive:
            raise self._died()
        id_ = str(next(self._ids))
        parts: asyncio.Queue[Part] = asyncio.Queue()
        self._answers[id_] = parts
        is_over = False
        try:
            await self._say(Ask(id=id_, prompt=prompt))
            while not is_over:
                part = await parts.get()
                is_over = not isinstance(part, Delta)
                yield part
        finally:
            del self._answers[id_]
            if not is_over and self.is_alive:
                with suppress(EngineDied):
                    await self._say(Cancel(id=id_))

    async def stop(self) -> None:
        """End the process; whatever it was answering ends as refused."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_WITHIN_S)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        await self._reader

    async def _say(self, line: BaseModel) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(line))
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            if isinstance(line, Delta | Done | Refused) and line.id in self._answers:
                self._answers[line.id].put_nowait(line)
        await self._process.wait()
        died = self._died()
        for id_, parts in self._answers.items():
            parts.put_nowait(Refused(id=id_, code=died.code, message=str(died), is_retryable=True))

    def _died(self) -> EngineDied:
        status = self._process.returncode
        log.warning("engine.ended", status=status, evidence=_tail(self._log_file))
        return EngineDied(f"the model's engine ended with status {status} in the middle of it; ask again")


async def start_engine(
    command: Sequence[str], *, environment: Mapping[str, str], log_file: Path, ready_within_s: float
) -> Engine:
    """Start an engine and wait until its model is loaded.

    Raises:
        EngineFailed: as the engine said, or it said nothing in time.
    """
    started = time.monotonic()
    with log_file.open("wb") as stderr:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=log_file.parent,
                env=dict(environment),
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFailed("engine_not_started", f"no engine could be started: {error}") from error
    try:
        first = await asyncio.wait_for(_first_line(process), ready_within_s)
    except BaseException as error:
        await _end(process)
        if isinstance(error, TimeoutError):
            problem = f"the model was not loaded within {ready_within_s:.0f} s; raise BITSMITH_SERVING_LOAD_WITHIN_S"
            raise EngineFailed("engine_too_slow", problem) from error
        raise
    if isinstance(first, Ready):
        log.info("engine.ready", pid=process.pid, seconds=round(time.monotonic() - started, 2), **first.model_dump())
        return Engine(process, first, log_file)
    await _end(process)
    if isinstance(first, Failed):
        raise EngineFailed(first.code, first.message)
    log.error("engine.crashed", status=process.returncode, evidence=_tail(log_file))
    raise EngineFailed("engine_crashed", f"the engine ended with status {process.returncode} while loading the model")


async def _first_line(process: asyncio.subprocess.Process) -> BaseModel | None:
    assert process.stdout is not None
    async for line in _lines(process.stdout):
        return line
    await process.wait()
    return None


async def _lines(stdout: asyncio.StreamReader) -> AsyncGenerator[BaseModel, None]:
    while raw := await stdout.readline():
        try:
            yield ENGINE_LINES.validate_json(raw)
        except ValidationError:
            log.warning("engine.said_something_else", text=raw[:200].decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _tail(log_file: Path) -> str:
    with suppress(OSError):
        return log_file.read_text(errors="replace")[-_EVIDENCE_CHARS:]
    return ""
