"""Tells Postgres every few seconds that this worker is there, of which pool, on what device, with what local models."""

import threading

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import get_logger

from bitsmith_worker import base_models
from bitsmith_worker.machine import Machine
from bitsmith_worker.settings import WorkerSettings

log = get_logger()


class Presence:
    """A thread; it survives outages of Postgres and says goodbye when stopped."""

    def __init__(self, settings: WorkerSettings, database: Database, found: Machine) -> None:
        self._settings, self._database, self._found = settings, database, found
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Ask the thread to sign off; safe in a signal handler."""
        self._leaving.set()

    def join(self, timeout_s: float = 5.0) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        found = self._found
        is_new = is_heard = True
        while not self._leaving.is_set():
            try:
                local_models = base_models.available(self._settings.models)
                with self._database.transaction() as tx:
                    if is_new:
                        jobs.workers.arrive(tx, self._settings.name)
                    jobs.workers.report(
                        tx,
                        name=self._settings.name,
                        pool=self._settings.pool,
                        device=found.device,
                        devices=found.devices,
                        memory_bytes=found.memory_bytes,
                        local_models=local_models,
                    )
                is_new = False
                if not is_heard:
                    log.info("presence.restored")
                is_heard = True
            except DatabaseUnavailable as error:
                if is_heard:  # once per outage
                    log.warning("presence.unheard", reason=str(error))
                is_heard = False
            except Exception:  # a thread's outermost edge: a worker that works must not be taken for gone
                log.exception("presence.not_reported")
            self._leaving.wait(self._settings.presence_s)
        try:
            with self._database.transaction() as tx:
                jobs.workers.leave(tx, self._settings.name)
        except DatabaseUnavailable as error:
            log.warning("presence.left_silently", reason=str(error))
