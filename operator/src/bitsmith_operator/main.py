"""Looks at everything again and again, until told to stop."""

import signal
import threading

from bitsmith_core import telemetry
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable
from bitsmith_core.log import configure_logging, get_logger
from bitsmith_core.settings import DatabaseSettings

from bitsmith_operator.cluster import Cluster, ClusterUnavailable
from bitsmith_operator.reconcile import Reconciler
from bitsmith_operator.settings import OperatorSettings

log = get_logger()

LONGEST_PAUSE_S = 30.0  # between two tries while the cluster or Postgres is away


def main() -> None:
    configure_logging()
    telemetry.configure("bitsmith-operator")
    settings = OperatorSettings.from_environment()
    database = Database(DatabaseSettings.from_environment())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    cluster = Cluster.connect(None if settings.kubeconfig is None else str(settings.kubeconfig))
    log.info("operator.started", namespaces=settings.namespaces)
    run(Reconciler(database, cluster, settings), settings, stop)
    database.close()
    log.info("operator.stopped")


def run(reconciler: Reconciler, settings: OperatorSettings, stop: threading.Event) -> None:
    """Round after round; an outage lengthens the pause and is told once."""
    pause_s, is_outage = settings.interval_s, False
    while not stop.is_set():
        try:
            for namespace in settings.namespaces:
                reconciler.round(namespace)
            if is_outage:
                log.info("operator.goes_on")
            pause_s, is_outage = settings.interval_s, False
        except (ClusterUnavailable, DatabaseUnavailable) as error:
            if not is_outage:
                log.warning("operator.waits", reason=str(error))
            pause_s, is_outage = min(2 * pause_s, LONGEST_PAUSE_S), True
        if settings.heartbeat is not None:
            settings.heartbeat.touch()  # waiting for a server is life, too: a restart would not help
        stop.wait(pause_s)


if __name__ == "__main__":
    main()
