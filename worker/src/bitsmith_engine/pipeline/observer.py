"""Progress and notes of the engine's parts as wire lines, about one a second."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Literal

from bitsmith_core.wire import Line, Note, Progress, Stage

from bitsmith_engine.errors import Stopped

_SECONDS_BETWEEN_LINES = 1.0

Emit = Callable[[Line], None]


class WireObserver:
    """The Observer of one stage. Stopping is noticed at every call, whether or not it prints."""

    def __init__(self, stage: Stage, emit: Emit, should_stop: Callable[[], bool]) -> None:
        self._stage = stage
        self._emit = emit
        self._should_stop = should_stop
        self._started = time.monotonic()
        self._last_line = -math.inf

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        if self._should_stop():
            raise Stopped(f"stopped on request while {self._stage} ({done} of {total} done); finished stages are kept")
        now = time.monotonic()
        if now - self._last_line < _SECONDS_BETWEEN_LINES and done < total:
            return
        self._last_line = now
        self._emit(
            Progress(
                stage=self._stage,
                done=done,
                total=total,
                eta_s=round((now - self._started) / done * (total - done), 1) if done else None,
                metrics=dict(metrics or {}),
            )
        )

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self._emit(Note(level=level, message=message))
