"""python -m bitsmith_worker: one worker, until SIGTERM."""

import sys
from functools import partial

from bitsmith_core.db import Database
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings
from bitsmith_core.storage import S3Store

from bitsmith_worker import workspace
from bitsmith_worker.app import SharedFlag, make_app, serve
from bitsmith_worker.presence import Presence
from bitsmith_worker.settings import WorkerSettings
from bitsmith_worker.tasks import Tools, run_job

log = get_logger()


def main() -> None:
    configure_logging()
    settings = WorkerSettings()  # type: ignore[call-arg]  # from the environment
    database_settings = DatabaseSettings()  # type: ignore[call-arg]
    for folder in workspace.sweep(settings.scratch):
        log.info("scratch.swept", folder=folder)

    leaving = SharedFlag()
    tools = Tools(
        settings=settings,
        database=Database(database_settings),  # the pool process's own; this process never connects it
        store=S3Store(StorageSettings()),  # type: ignore[call-arg]
        is_leaving=leaving.is_set,
    )
    presence = Presence(settings, Database(database_settings))
    queue_settings = QueueSettings()  # type: ignore[call-arg]
    app = make_app(queue_settings, run_job=partial(run_job, tools))

    log.info("worker.started", worker=settings.name, pool=settings.pool)
    status = serve(
        app,
        name=settings.name,
        pool=settings.pool,
        leaving=leaving,
        on_ready=presence.start,
        on_leaving=presence.leave,
    )
    presence.leave()
    presence.join()
    log.info("worker.left", worker=settings.name)
    sys.exit(status)


if __name__ == "__main__":
    main()
