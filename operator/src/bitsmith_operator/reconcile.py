"""One look at everything in a namespace: what the cluster wants, what the database knows, and what follows."""

from datetime import timedelta

from bitsmith_core.db import Database

from bitsmith_operator.cluster import Cluster
from bitsmith_operator.finetunejobs import FineTuneJobs
from bitsmith_operator.settings import OperatorSettings
from bitsmith_operator.statuses import Statuses
from bitsmith_operator.workerpools import WorkerPools


class Reconciler:
    def __init__(self, database: Database, cluster: Cluster, settings: OperatorSettings) -> None:
        statuses = Statuses(cluster, every=timedelta(seconds=settings.status_every_s))
        self._jobs = FineTuneJobs(database, cluster, statuses, settings)
        self._pools = WorkerPools(database, cluster, statuses, settings)

    def round(self, namespace: str) -> None:
        """
        Raises:
            ClusterUnavailable, DatabaseUnavailable: the next round begins anew; nothing half-done does harm.
        """
        self._jobs.look(namespace)
        self._pools.look(namespace)
