"""The database's reconcile loop: elect a leader, then reap, dispatch and relay until told to stop."""

import signal
import threading

from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.queue import Courier
from bitsmith_core.settings import DatabaseSettings, QueueSettings

from bitsmith_scheduler.dispatch import dispatch
from bitsmith_scheduler.leader import Leader
from bitsmith_scheduler.reap import reap
from bitsmith_scheduler.relay import Relay
from bitsmith_scheduler.settings import SchedulerSettings

log = get_logger()

LONGEST_PAUSE_S = 5.0  # between two tries while Postgres is away


def main() -> None:
    configure_logging()
    settings = SchedulerSettings()
    database = Database(DatabaseSettings())  # type: ignore[call-arg]  # from the environment
    courier = Courier(QueueSettings())  # type: ignore[call-arg]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    log.info("scheduler.started")
    run(database, courier, settings, stop)
    courier.close()
    database.close()
    log.info("scheduler.stopped")


def run(database: Database, courier: Courier, settings: SchedulerSettings, stop: threading.Event) -> None:
    """Act whenever this process leads, until stop is set."""
    relay = Relay(database, courier)
    pause_s, is_outage = settings.interval_s, False
    with Leader(database) as leader:
        while not stop.is_set():
            try:
                if leader.is_leading():
                    reap(database)
                    dispatch(database)
                    relay.relay()
                    relay.prune()
                if is_outage:
                    log.info("database.restored")
                pause_s, is_outage = settings.interval_s, False
            except DatabaseUnavailable as error:
                if not is_outage:  # once per outage
                    log.warning("database.unavailable", reason=str(error))
                pause_s, is_outage = min(2 * pause_s, LONGEST_PAUSE_S), True
            stop.wait(pause_s)
