"""The courier: a message carries a job id and nothing else, and may be lost or doubled at no cost but time.

Every pool of workers has a queue of its own.

Postgres knows which jobs wait; whoever gets a message must still win `jobs.claim`.
"""

import socket

from celery import Celery
from kombu.exceptions import OperationalError

from bitsmith_core.errors import QueueUnavailable
from bitsmith_core.ids import JobId
from bitsmith_core.pools import DEFAULT_POOL
from bitsmith_core.settings import QueueSettings

RUN_JOB = "bitsmith.run_job"
GPU_QUEUE = "gpu"  # of the default pool
TRACE_HEADER = "traceparent"

# A waiting consumer sends nothing; without these it would notice a vanished broker only after the system's two hours.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)  # macOS lacks the first before Python 3.12
}


def queue_of(pool: str) -> str:
    """The default pool's is the one there was before there were pools: workers of the release before listen to it."""
    return GPU_QUEUE if pool == DEFAULT_POOL else f"{GPU_QUEUE}.{pool}"


def make_celery(settings: QueueSettings) -> Celery:
    """The one Celery configuration; the worker adds only how it consumes."""
    app = Celery("bitsmith", broker=settings.url.get_secret_value())
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,  # results are rows in Postgres
        result_backend=None,
        task_default_queue=GPU_QUEUE,
        task_routes={RUN_JOB: {"queue": GPU_QUEUE}},
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_connect_timeout": 5,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
        },
    )
    return app


class Courier:
    """The sending side."""

    def __init__(self, settings: QueueSettings) -> None:
        self._app = make_celery(settings)
        # Fail at the first refusal (the default tries for six seconds): whoever sends can send again later.
        self._app.conf.broker_transport_options = {**self._app.conf.broker_transport_options, "max_retries": 0}

    def send(self, job_id: JobId, *, traceparent: str | None = None, pool: str = DEFAULT_POOL) -> None:
        """Offer the job to the workers of a pool.

        Args:
            traceparent: of the trace that whoever takes the job goes on with.

        Raises:
            QueueUnavailable: the broker cannot be reached; the job stays queued and is offered again later.
        """
        try:
            self._app.send_task(
                RUN_JOB, args=[job_id], headers={TRACE_HEADER: traceparent}, queue=queue_of(pool), retry=False
            )
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(f"the broker did not take job {job_id}: {error}") from error

    def close(self) -> None:
        self._app.close()
