"""The Celery side: one pool process takes one message at a time and calls `run_job` with it.

Celery is a courier here and nothing else: no results, no retries, no remote control. Whether a message counts is
decided by `jobs.claim`, and who stops a job is decided in Postgres.
"""

import logging
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

from bitsmith_core import telemetry
from bitsmith_core.ids import JobId
from bitsmith_core.log import get_logger
from bitsmith_core.queue import RUN_JOB, TRACE_HEADER, make_celery, queue_of
from bitsmith_core.settings import QueueSettings
from celery import Celery, Task, signals

log = get_logger()


class SharedFlag:
    """Set by the parent's signal handler, seen by the pool process: one byte of memory that survives the fork."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


def make_app(settings: QueueSettings, *, run_job: Callable[[JobId], None]) -> Celery:
    app = make_celery(settings)
    app.conf.update(
        task_acks_late=False,  # Redis delivers again what is unacknowledged for an hour; a job takes longer
        task_reject_on_worker_lost=False,  # the lease finds what a dead worker left; the broker would loop
        worker_pool="prefork",  # the parent stays free to hear SIGTERM and to report presence
        worker_concurrency=1,  # one worker, one device, one job
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a message must not wait behind a job that takes hours
        worker_enable_remote_control=False,  # nobody revokes or terminates behind Postgres' back
        worker_cancel_long_running_tasks_on_connection_loss=True,  # late-acknowledged ones only: none of ours
        worker_redirect_stdouts=False,
        broker_connection_retry=True,
        broker_connection_max_retries=None,  # a broker may be away for days; jobs wait in Postgres
    )

    def take(task: Task, job_id: str) -> None:
        telemetry.configure("bitsmith-worker")  # here, in the pool process: what sends spans is a thread
        with telemetry.continued(getattr(task.request, TRACE_HEADER, None)):
            run_job(JobId(job_id))
        telemetry.flush()

    app.task(name=RUN_JOB, bind=True)(take)
    return app


def serve(
    app: Celery,
    *,
    name: str,
    pool: str,
    leaving: SharedFlag,
    on_ready: Callable[[], None],
    on_leaving: Callable[[], None],
) -> int:
    """Consume until SIGTERM or SIGINT; answers the exit status.

    Args:
        on_ready: called once, when messages can be taken and signals are heeded.
        leaving: set first, so that the pool process gives its job back; Celery then waits for that.
        on_leaving: called in the signal handler, so it may only set flags.
    """

    def leave(**_: Any) -> None:
        leaving.set()
        on_leaving()

    def ready(**_: Any) -> None:
        # Celery's own SIGINT ends in a cold shutdown that kills the pool process in the middle of giving its job back.
        signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        on_ready()

    _log_through_ours()
    signals.setup_logging.connect(_log_through_ours, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(leave, weak=False)
    worker = app.Worker(
        hostname=f"bitsmith@{name}",
        queues=[queue_of(pool)],
        quiet=True,
        # Workers need not know each other: Postgres knows who is there.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return worker.exitcode or 0


class _ToOurLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        log.log(record.levelno, "celery.said", logger=record.name, message=record.getMessage(), exc_info=exc_info)


def _log_through_ours(**_: Any) -> None:
    """Connecting this is what keeps Celery from installing handlers of its own."""
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[_ToOurLog()], force=True)
