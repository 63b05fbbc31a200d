"""WorkerPools of mode job: a Kubernetes Job for each attempt, and for several nodes the names they meet by."""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bitsmith_core import jobs
from bitsmith_core.log import get_logger

from bitsmith_operator import fleet
from bitsmith_operator.cluster import Cluster, Refused
from bitsmith_operator.manifests import KEPT_S, gang_service, worker_job
from bitsmith_operator.objects import Meta, WorkerPool
from bitsmith_operator.settings import PodDefaults

log = get_logger()

INDEXED_SINCE = (1, 22)  # and suspend: fields that an older server drops without a word
_GRACE = timedelta(seconds=KEPT_S + 60)  # the server's own clean-up comes first


class Runs:
    def __init__(self, cluster: Cluster, defaults: PodDefaults) -> None:
        self._cluster, self._defaults = cluster, defaults
        self._version: tuple[int, int] | None = None

    def keep(self, pool: WorkerPool, mine: Sequence[fleet.Run], *, wanted: int, now: datetime) -> str | None:
        """Make the Jobs that are missing; answers what keeps that from being done, if so.

        Raises:
            ClusterUnavailable
        """
        namespace = pool.metadata.namespace
        planned = fleet.launch(mine, wanted=wanted, kept_for=_GRACE, now=now)
        for name in planned.forget:
            self._cluster.delete_job(namespace, name)
        if (pool.spec.nodes > 1 or pool.spec.is_queued) and (problem := self._too_old(pool)) is not None:
            return problem
        for _ in range(planned.create):
            manifest = worker_job(pool, self._defaults, suffix=secrets.token_hex(3))
            if (problem := refusal(self._cluster.create_job, manifest, pool)) is not None:
                return problem
        return None

    def name_nodes(self, pool: WorkerPool, bodies: Sequence[dict[str, Any]]) -> str | None:
        """Give every open Job of several nodes its Service; answers why one could not be made, if so.

        Raises:
            ClusterUnavailable
        """
        if pool.spec.nodes == 1:
            return None
        open_jobs = [Meta.model_validate(body["metadata"]) for body in bodies if finished_at(body) is None]
        if not open_jobs:
            return None
        there = {each["metadata"]["name"] for each in self._cluster.list_services(pool.metadata.namespace)}
        for job in open_jobs:
            if job.name in there:
                continue
            if (problem := refusal(self._cluster.create_service, gang_service(pool, job), pool)) is not None:
                return problem
        return None

    def _too_old(self, pool: WorkerPool) -> str | None:
        self._version = self._version or self._cluster.version()
        if self._version >= INDEXED_SINCE:
            return None
        wish = f"nodes: {pool.spec.nodes} needs Indexed Jobs" if pool.spec.nodes > 1 else "Kueue needs suspended Jobs"
        needed, found = (".".join(map(str, version)) for version in (INDEXED_SINCE, self._version))
        return f"{wish}, which Kubernetes has from {needed} on; this server is {found}."


def refusal(create: Callable[[dict[str, Any]], None], manifest: dict[str, Any], pool: WorkerPool) -> str | None:
    """Make an object of a pool; answers why the cluster does not want it, if so.

    Raises:
        ClusterUnavailable
    """
    kind = manifest["kind"].lower()
    try:
        create(manifest)
    except Refused as error:
        log.warning(f"{kind}.refused", pool=pool.metadata.name, reason=str(error))
        return str(error)
    log.info(f"{kind}.created", name=manifest["metadata"]["name"], pool=pool.metadata.name)
    return None


def run_of(body: dict[str, Any], workers: Mapping[str, jobs.workers.Seen], at_work: Collection[str]) -> fleet.Run:
    metadata = body["metadata"]
    name = metadata["name"]
    seen = workers.get(name)
    return fleet.Run(
        name=name,
        is_leaving=metadata.get("deletionTimestamp") is not None,
        finished_at=finished_at(body),
        worker=fleet.Worker.of(seen and seen.is_alive),
        is_busy=name in at_work,
    )


def finished_at(body: dict[str, Any]) -> datetime | None:
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return datetime.fromisoformat(condition["lastTransitionTime"])
    return None
