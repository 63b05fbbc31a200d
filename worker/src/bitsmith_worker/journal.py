"""Writes the engine's lines into the job's history, in order, without ever making the engine wait for Postgres.

While Postgres does not answer, lines wait here; of a stage's progress only the newest is kept then, everything else
is kept whole.
"""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, LeaseLost
from bitsmith_core.jobs import Lease
from bitsmith_core.log import get_logger
from bitsmith_core.wire import Line, Progress

RETRY_S = 0.5
FLUSH_S = 5.0


class Journal:
    def __init__(self, database: Database, lease: Lease, *, on_lease_lost: Callable[[], None]) -> None:
        self._database, self._lease, self._on_lease_lost = database, lease, on_lease_lost
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
        with self._changed:
            self._changed.wait_for(self._is_flushed, timeout=FLUSH_S)
            self._closed.set()
            self._changed.notify_all()

    def add(self, line: Line) -> None:
        with self._changed:
            if self._is_outage and isinstance(line, Progress):
                self._waiting = deque(old for old in self._waiting if not _is_overtaken(old, line))
            self._waiting.append(line)
            self._changed.notify_all()

    def flush(self, pause: Callable[[float], None]) -> None:
        """Come back when everything is written; pause raises if that must not be waited for any longer."""
        while True:
            with self._changed:
                if self._changed.wait_for(self._is_flushed, timeout=0.1):
                    return
            pause(0)

    def _is_flushed(self) -> bool:
        return self._closed.is_set() or not (self._waiting or self._is_writing)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            self._write(line)
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _next(self) -> Line | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed.is_set() or self._waiting)
            if self._closed.is_set():
                return None
            self._is_writing = True
            return self._waiting.popleft()

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


def _is_overtaken(old: Line, new: Progress) -> bool:
    return isinstance(old, Progress) and old.stage == new.stage
