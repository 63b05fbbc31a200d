"""Progress and notes of the engine's parts as wire lines, about one a second, with all that was measured in between."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Literal

from bitsmith_core.wire import Line, Metrics, Note, Progress, Stage

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
        self._measured: dict[int, Mapping[str, float]] = {}
        self._unsaid: Progress | None = None

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if metrics:
            if self._measured and done <= max(self._measured):  # the run went back
                self._say_measured()
            self._measured[done] = metrics
        self._unsaid = Progress(
            stage=self._stage,
            done=done,
            total=total,
            eta_s=round((now - self._started) / done * (total - done), 1) if done else None,
            metrics=dict(metrics or {}),
        )
        is_over = self._should_stop()
        if is_over or now - self._last_line >= _SECONDS_BETWEEN_LINES or done >= total:
            self.flush()
        if is_over:
            raise Stopped(f"stopped on request while {self._stage} ({done} of {total} done); finished stages are kept")

    def flush(self) -> None:
        """Say what is unsaid: the end is near."""
        self._say_measured()
        if self._unsaid is not None:
            self._emit(self._unsaid)
            self._last_line = time.monotonic()
        self._unsaid = None

    def _say_measured(self) -> None:
        if not self._measured:
            return
        names = sorted({name for metrics in self._measured.values() for name in metrics})
        columns = {name: [metrics.get(name) for metrics in self._measured.values()] for name in names}
        self._emit(Metrics(stage=self._stage, steps=list(self._measured), columns=columns))
        self._measured = {}

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self._emit(Note(level=level, message=message))
