"""Keeps the lease alive and brings back what ends an attempt early: a wish, a lost lease, a silent database.

Every other part of an attempt asks here whether it may go on. The answer is computed from the monotonic clock when it
is asked for, so a worker that was frozen, or whose database connection hangs, learns of it at once.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeVar

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, LeaseLost
from bitsmith_core.jobs import DesiredState, Lease
from bitsmith_core.log import get_logger

from bitsmith_worker.settings import WorkerSettings

log = get_logger()
T = TypeVar("T")

POLL_S = 0.1
RETRY_S = 2.0


class Ending(StrEnum):
    CANCELLED = "cancelled"
    PAUSED = "paused"
    DRAINED = "drained"  # this worker takes no more work; another takes over
    LEAVING = "leaving"  # this worker goes away; another takes over
    LEASE_LOST = "lease_lost"
    FENCED = "fenced"  # Postgres is silent for so long that another attempt may start soon

    @property
    def may_write(self) -> bool:
        """Whether this attempt may still say how it ended."""
        return self not in (Ending.LEASE_LOST, Ending.FENCED)

    @property
    def can_wait(self) -> bool:
        """Whether the engine gets the time to come to a checkpoint."""
        return self in (Ending.PAUSED, Ending.DRAINED)


class AttemptOver(Exception):
    """The attempt must end now, for a reason from outside."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"the attempt must end: {ending}")
        self.ending = ending


class Heartbeat:
    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        lease: Lease,
        *,
        claimed_at: float,
        is_leaving: Callable[[], bool],
    ) -> None:
        """claimed_at: monotonic seconds just before the claim, from which its lease is surely not shorter."""
        self._settings, self._database, self._lease = settings, database, lease
        self._is_leaving = is_leaving
        self._last_beat = claimed_at
        self._wish = DesiredState.RUN
        self._is_draining = self._is_lost = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(1.0)  # it may hang in a dead connection; nothing of it matters any more

    def ending(self) -> Ending | None:
        """Why the attempt must end, None while it may go on. The gravest reason wins."""
        if self._is_lost:
            return Ending.LEASE_LOST
        if time.monotonic() - self._last_beat > self._settings.fence_s:
            return Ending.FENCED
        if self._wish is DesiredState.CANCEL:
            return Ending.CANCELLED
        if self._is_leaving():  # before a pause, which may take longer than this process has
            return Ending.LEAVING
        if self._wish is DesiredState.PAUSE:
            return Ending.PAUSED
        return Ending.DRAINED if self._is_draining else None

    def lose(self) -> None:
        """Some other write found the lease gone."""
        self._is_lost = True

    def wait_for(self, work: Future[T]) -> T:
        """The result of work, unless the attempt must end first.

        Raises:
            AttemptOver: work is left to itself and must find out that nobody wants it.
        """
        while not wait([work], timeout=POLL_S).done:
            if (ending := self.ending()) is not None:
                raise AttemptOver(ending)
        return work.result()

    def wait_all(self, works: Sequence[Future[None]], *, within_s: float) -> None:
        """Give works some time to end, less if the lease is gone."""
        deadline = time.monotonic() + within_s
        while works and time.monotonic() < deadline:
            ending = self.ending()
            if not wait(works, timeout=POLL_S).not_done or (ending is not None and not ending.may_write):
                return

    def pause(self, seconds: float) -> None:
        """Wait before another try of something this attempt may only do with its lease.

        Raises:
            AttemptOver: the lease is gone, or may be soon.
        """
        deadline = time.monotonic() + seconds
        while True:
            ending = self.ending()
            if ending is not None and not ending.may_write:
                raise AttemptOver(ending)
            if (left := deadline - time.monotonic()) <= 0:
                return
            time.sleep(min(left, POLL_S))

    def _run(self) -> None:
        pause_s = self._settings.heartbeat_s
        while not self._stopped.wait(pause_s):
            before = time.monotonic()
            pause_s = min(self._settings.heartbeat_s, RETRY_S)  # until it was heard
            try:
                with self._database.transaction() as tx:
                    wish = jobs.extend(tx, self._lease, ttl=self._settings.lease)
                    is_draining = jobs.workers.is_draining(tx, self._lease.worker)
            except LeaseLost:
                if not self._stopped.is_set():
                    log.warning("lease.lost", job_id=self._lease.job_id, attempt=self._lease.attempt)
                self._is_lost = True
                return
            except DatabaseUnavailable as error:
                log.warning("heartbeat.missed", job_id=self._lease.job_id, reason=str(error))
                continue
            except Exception:  # a thread's outermost edge: a missed beat, and the fence acts if it stays so
                log.exception("heartbeat.missed", job_id=self._lease.job_id)
                continue
            self._last_beat, pause_s = before, self._settings.heartbeat_s
            if (wish, is_draining) != (self._wish, self._is_draining):
                log.info("job.wish_seen", job_id=self._lease.job_id, wish=wish, is_draining=is_draining)
            self._wish, self._is_draining = wish, is_draining
