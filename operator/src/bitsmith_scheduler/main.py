"""The database's reconcile loop: elect a leader, then reap, dispatch and relay until told to stop."""

import signal
import threading
from contextlib import AbstractContextManager, nullcontext

from bitsmith_core import telemetry
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.queue import Courier
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings, WebhookSettings
from bitsmith_core.storage import S3Store

from bitsmith_scheduler.deliver import Deliverer
from bitsmith_scheduler.dispatch import UsageMeter, dispatch
from bitsmith_scheduler.janitor import Janitor
from bitsmith_scheduler.leader import Leader
from bitsmith_scheduler.reap import reap
from bitsmith_scheduler.relay import Relay
from bitsmith_scheduler.settings import SchedulerSettings

log = get_logger()

LONGEST_PAUSE_S = 5.0  # between two tries while Postgres is away


def main() -> None:
    configure_logging()
    telemetry.configure("bitsmith-scheduler")
    settings = SchedulerSettings.from_environment()
    database = Database(DatabaseSettings.from_environment())
    courier = Courier(QueueSettings.from_environment())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    leads = threading.Event()
    log.info("scheduler.started")
    with _janitor(database, settings, leads), Deliverer(database, WebhookSettings.from_environment()):
        run(database, courier, settings, stop, leads)
    courier.close()
    database.close()
    log.info("scheduler.stopped")


def _janitor(database: Database, settings: SchedulerSettings, leads: threading.Event) -> AbstractContextManager[object]:
    if not StorageSettings.are_given():
        log.warning("janitor.off", reason="BITSMITH_STORAGE_* is not set, so nothing is ever deleted from the store")
        return nullcontext()
    store = S3Store(StorageSettings.from_environment())
    return Janitor(database, store, settings, leads=leads)


def run(
    database: Database,
    courier: Courier,
    settings: SchedulerSettings,
    stop: threading.Event,
    leads: threading.Event | None = None,
) -> None:
    """Act whenever this process leads, until stop is set.

    Args:
        leads: set while it does.
    """
    leads = leads or threading.Event()
    policy = settings.policy
    meter = UsageMeter(database, policy, every_s=settings.usage_sample_s)
    relay = Relay(database, courier)
    pause_s, is_outage = settings.interval_s, False
    with Leader(database) as leader:
        while not stop.is_set():
            try:
                if leader.is_leading():
                    leads.set()
                    reap(database)
                    meter.sample()
                    dispatch(database, policy=policy)
                    relay.relay()
                    relay.prune()
                else:
                    leads.clear()
                if is_outage:
                    log.info("database.restored")
                pause_s, is_outage = settings.interval_s, False
            except DatabaseUnavailable as error:
                leads.clear()
                if not is_outage:  # once per outage
                    log.warning("database.unavailable", reason=str(error))
                pause_s, is_outage = min(2 * pause_s, LONGEST_PAUSE_S), True
            stop.wait(pause_s)
