"""python -m bitsmith_worker: one worker, or a node that helps one, until SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings
from bitsmith_core.storage import S3Store

from bitsmith_worker import machine, workspace
from bitsmith_worker.app import SharedFlag, make_app, serve
from bitsmith_worker.node import NodeTools, follow
from bitsmith_worker.presence import Presence
from bitsmith_worker.settings import GangSettings, WorkerSettings
from bitsmith_worker.tasks import Tools, run_job

log = get_logger()


def main() -> None:
    configure_logging()
    settings = WorkerSettings.from_environment()
    database_settings = DatabaseSettings.from_environment()
    found = machine.look()
    if found.device == "cuda" and (settings.processes or 1) > found.devices:
        sys.exit(f"BITSMITH_WORKER_PROCESSES is {settings.processes}, but this worker sees {found.devices} GPUs.")
    for folder in workspace.sweep(settings.scratch):
        log.info("scratch.swept", folder=folder)

    gang = GangSettings.from_environment()
    database = Database(database_settings)  # of one process; a worker's is that of its pool process
    store = S3Store(StorageSettings.from_environment())
    if gang.is_helper:
        follow(NodeTools(settings=settings, gang=gang, database=database, store=store, machine=found))
        return

    leaving, claimed = SharedFlag(), SharedFlag()
    tools = Tools(
        settings=settings,
        database=database,
        store=store,
        machine=found,
        gang=gang,
        is_leaving=leaving.is_set,
        on_claim=claimed.set,
    )
    of_all_nodes = replace(found, devices=found.devices * gang.nodes)  # as alike as they must be
    presence = Presence(settings, Database(database_settings), of_all_nodes)
    app = make_app(QueueSettings.from_environment(), run_job=_taking(tools, leaving))

    def ready() -> None:
        presence.start()
        if settings.once:
            idle = threading.Timer(settings.idle_within_s, _leave_if_idle, [claimed])
            idle.daemon = True
            idle.start()

    log.info("worker.started", worker=settings.name, pool=settings.pool)
    status = serve(
        app,
        name=settings.name,
        pool=settings.pool,
        leaving=leaving,
        on_ready=ready,
        on_leaving=presence.leave,
    )
    presence.leave()
    presence.join()
    log.info("worker.left", worker=settings.name)
    sys.exit(status)


def _taking(tools: Tools, leaving: SharedFlag) -> Callable[[JobId], None]:
    """What the pool process does with a message."""

    def take(job_id: JobId) -> None:
        if run_job(tools, job_id) and tools.settings.once:
            leaving.set()  # a message that comes now is left
            os.kill(os.getppid(), signal.SIGTERM)

    return take


def _leave_if_idle(claimed: SharedFlag) -> None:
    if not claimed.is_set():
        log.info("worker.idle")
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
