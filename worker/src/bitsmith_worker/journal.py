"""Writes the engine's lines into the job's history, in order, without ever making the engine wait for Postgres.

While Postgres does not answer, lines wait here; of a stage's progress only the newest is kept then, everything else
is kept whole. Metrics are gathered for some seconds, to be few and large rows.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, LeaseLost
from bitsmith_core.jobs import Lease
from bitsmith_core.log import get_logger
from bitsmith_core.wire import Line, Metrics, Progress

RETRY_S = 0.5
FLUSH_S = 5.0
LONGEST_CHUNK = 2000  # steps


class Journal:
    def __init__(
        self, database: Database, lease: Lease, *, metrics_every_s: float, on_lease_lost: Callable[[], None]
    ) -> None:
        self._database, self._lease, self._on_lease_lost = database, lease, on_lease_lost
        self._metrics_every_s = metrics_every_s
        self._measured: deque[Metrics] = deque()
        self._measured_due = 0.0
        self._is_hurrying = False
        self._log = get_logger().bind(job_id=lease.job_id, attempt=lease.attempt)
        self._changed = threading.Condition()
        self._waiting: deque[Line] = deque()
        self._is_writing = self._is_outage = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """However the attempt ended, its last lines belong to the history; but nobody waits long for that."""
        self._hurry()
        with self._changed:
            self._changed.wait_for(self._is_flushed, timeout=FLUSH_S)
            self._closed.set()
            self._changed.notify_all()

    def add(self, line: Line) -> None:
        with self._changed:
            if self._is_outage and isinstance(line, Progress):
                self._waiting = deque(old for old in self._waiting if not _is_overtaken(old, line))
            if isinstance(line, Metrics):
                self._gather(line)
            else:
                self._waiting.append(line)
            self._changed.notify_all()

    def flush(self, pause: Callable[[float], None]) -> None:
        """Come back when everything is written; pause raises if that must not be waited for any longer."""
        self._hurry()
        while True:
            with self._changed:
                if self._changed.wait_for(self._is_flushed, timeout=0.1):
                    return
            pause(0)

    def _hurry(self) -> None:
        """Nothing more is worth gathering."""
        with self._changed:
            self._is_hurrying = True
            self._changed.notify_all()

    def _is_flushed(self) -> bool:
        return self._closed.is_set() or not (self._waiting or self._measured or self._is_writing)

    def _gather(self, line: Metrics) -> None:
        if not line.steps:
            return
        if not self._measured:
            self._measured_due = time.monotonic() + self._metrics_every_s
        whole = joined(self._measured[-1], line) if self._measured else None
        if whole is None:
            self._measured.append(line)
        else:
            self._measured[-1] = whole

    def _run(self) -> None:
        while (line := self._next()) is not None:
            self._write(line)
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _next(self) -> Line | None:
        with self._changed:
            while not self._closed.is_set():
                line = self._ready()
                if line is not None:
                    self._is_writing = True
                    return line
                self._changed.wait(self._measured_due - time.monotonic() if self._measured else None)
            return None

    def _ready(self) -> Line | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._measured and (self._is_hurrying or time.monotonic() >= self._measured_due):
            return self._measured.popleft()
        return None

    def _write(self, line: Line) -> None:
        while not self._closed.is_set():
            try:
                with self._database.transaction() as tx:
                    jobs.record(tx, self._lease, line)
            except DatabaseUnavailable as error:
                if not self._is_outage:  # once per outage
                    self._log.warning("journal.waiting", reason=str(error))
                self._is_outage = True
                self._closed.wait(RETRY_S)
            except LeaseLost:
                self._on_lease_lost()
                self._closed.set()
            except Exception:  # a thread's outermost edge: one line that Postgres cannot hold must not end the history
                self._log.exception("journal.line_dropped", type=line.type)
                return
            else:
                if self._is_outage:
                    self._log.info("journal.resumed", waiting=len(self._waiting))
                self._is_outage = False
                return


def joined(earlier: Metrics, later: Metrics) -> Metrics | None:
    """One line for both, None if they do not belong together: another stage, a step repeated, or too many of them."""
    if earlier.stage != later.stage or later.steps[0] <= earlier.steps[-1]:
        return None
    if len(earlier.steps) + len(later.steps) > LONGEST_CHUNK:
        return None
    nothing = [None] * len(earlier.steps), [None] * len(later.steps)
    return Metrics(
        stage=earlier.stage,
        steps=[*earlier.steps, *later.steps],
        columns={
            name: [*earlier.columns.get(name, nothing[0]), *later.columns.get(name, nothing[1])]
            for name in (earlier.columns | later.columns)
        },
    )


def _is_overtaken(old: Line, new: Progress) -> bool:
    return isinstance(old, Progress) and old.stage == new.stage
