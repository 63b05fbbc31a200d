"""WorkerPools get and lose pods, or get Jobs, and what Kubernetes knows of a pod's end is told to the attempt in it."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bitsmith_core import jobs
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Database
from bitsmith_core.log import get_logger
from pydantic import ValidationError

from bitsmith_operator import evidence, fleet, mirror
from bitsmith_operator.cluster import Cluster
from bitsmith_operator.manifests import POOL_LABEL, TEMPLATE_ANNOTATION, template_digest, worker_pod
from bitsmith_operator.objects import WorkerPool
from bitsmith_operator.runs import Runs, refusal, run_of
from bitsmith_operator.settings import OperatorSettings
from bitsmith_operator.statuses import Statuses

log = get_logger()

PLURAL = "workerpools"
_TOLD_FOR = timedelta(minutes=5)  # the attempt's row may be held just now; later the lease has run out anyway


@dataclass
class _Memory:
    """What rounds tell each other. All of it may be lost: then things are done later, or a worker comes back late."""

    surplus_since: dict[str, datetime] = field(default_factory=dict)  # uid of a pool
    silent_since: dict[str, datetime] = field(default_factory=dict)  # name of a pod
    drained: set[str] = field(default_factory=set)  # names of pods


class WorkerPools:
    def __init__(self, database: Database, cluster: Cluster, statuses: Statuses, settings: OperatorSettings) -> None:
        self._database, self._cluster, self._statuses, self._settings = database, cluster, statuses, settings
        self._runs = Runs(cluster, settings.pods)
        self._memories: dict[str, _Memory] = {}

    def look(self, namespace: str) -> None:
        """
        Raises:
            ClusterUnavailable, DatabaseUnavailable
        """
        bodies = self._cluster.list_objects(PLURAL, namespace)
        pods = self._cluster.list_pods(namespace)
        self._tell_losses(pods)
        if bodies is None:
            return
        pools = [pair for pair in map(self._read, bodies) if pair is not None]
        pools.sort(key=lambda pair: (pair[0].spec.order, pair[0].metadata.name))
        has_jobs = any(pool.spec.mode == "job" for pool, _ in pools)
        self._size(namespace, pools, pods, self._cluster.list_jobs(namespace) if has_jobs else [])

    def _tell_losses(self, pods: Sequence[dict[str, Any]]) -> None:
        now = utc_now()
        for loss in [loss for pod in pods for loss in evidence.losses(pod) if now - loss.at < _TOLD_FOR]:
            with self._database.transaction() as tx:
                job_id = jobs.cluster.worker_lost(
                    tx, loss.worker, at=loss.at, failure=loss.failure, code=loss.code,
                    message=loss.message, evidence=loss.evidence,
                )  # fmt: skip
            if job_id is not None:
                log.warning("worker.lost", worker=loss.worker, job_id=job_id, reason=loss.code)

    def _read(self, body: dict[str, Any]) -> tuple[WorkerPool, dict[str, Any]] | None:
        if body["metadata"].get("deletionTimestamp") is not None:
            return None
        try:
            return WorkerPool.model_validate({"status": {}, **body}), body
        except ValidationError as error:
            now, before = utc_now(), body.get("status") or {}
            generation = body["metadata"].get("generation", 1)
            status = mirror.refused(mirror.told(error, body), generation=generation, before=before, now=now)
            self._statuses.write(PLURAL, body, status, now=now)
            return None

    def _size(
        self,
        namespace: str,
        pools: Sequence[tuple[WorkerPool, dict[str, Any]]],
        pods: Sequence[dict[str, Any]],
        batch: Sequence[dict[str, Any]],
    ) -> None:
        now, memory = utc_now(), self._memories.setdefault(namespace, _Memory())
        names = [body["metadata"]["name"] for body in [*pods, *batch]]
        with self._database.transaction() as tx:
            waiting = jobs.cluster.waiting(tx, but_for=names)
            workers = {seen.worker.name: seen for seen in jobs.workers.those(tx, names)}
            at_work = jobs.workers.at_work(tx, names)
        memory.drained &= set(names)
        memory.silent_since = {
            name: memory.silent_since.get(name, now)
            for name in names
            if name not in workers or not workers[name].is_alive
        }
        of_pools = [[_pod(pod, workers, at_work, memory) for pod in pods if _belongs(pod, pool)] for pool, _ in pools]
        jobs_of_pools = [[body for body in batch if _belongs(body, pool)] for pool, _ in pools]
        runs_of_pools = [[run_of(body, workers, at_work) for body in mine] for mine in jobs_of_pools]
        sizes = [
            fleet.Size(
                least=pool.spec.min_workers,
                most=pool.spec.max_workers,
                idle_for=timedelta(seconds=pool.spec.idle_seconds),
            )
            for pool, _ in pools
        ]
        busy = [
            sum(pod.is_busy for pod in mine) + sum(run.is_busy for run in runs)
            for mine, runs in zip(of_pools, runs_of_pools, strict=True)
        ]
        wanted = fleet.share(waiting, [pool.spec.pool for pool, _ in pools], sizes, busy)
        for at, (pool, body) in enumerate(pools):
            mine, runs, size, count = of_pools[at], runs_of_pools[at], sizes[at], wanted[at]
            has_jobs = pool.spec.mode == "job"
            planned = fleet.plan(
                mine,
                wanted=0 if has_jobs else count,  # pods may be left of another mode
                idle_for=size.idle_for,
                template=template_digest(pool, self._settings.pods),
                surplus_since=memory.surplus_since.get(pool.metadata.uid),
                drained=memory.drained,
                now=now,
            )
            problem = self._do(namespace, pool, planned, memory)
            if has_jobs:
                busy_pods = sum(pod.is_busy for pod in mine)
                problem = self._runs.keep(pool, runs, wanted=count - busy_pods, now=now)
                problem = self._runs.name_nodes(pool, jobs_of_pools[at]) or problem
            status = _status(pool, mine, runs, wanted=count, problem=problem, before=body.get("status") or {}, now=now)
            self._statuses.write(PLURAL, body, status, now=now)

    def _do(self, namespace: str, pool: WorkerPool, planned: fleet.Plan, memory: _Memory) -> str | None:
        """Answers why a pod could not be made, if so."""
        memory.surplus_since.pop(pool.metadata.uid, None)
        if planned.surplus_since is not None:
            memory.surplus_since[pool.metadata.uid] = planned.surplus_since
        with self._database.transaction() as tx:
            for name in planned.drain:
                jobs.workers.drain(tx, name, wanted=True)
            for name in planned.undrain:
                jobs.workers.drain(tx, name, wanted=False)
        memory.drained = (memory.drained | set(planned.drain)) - set(planned.undrain)
        for name in planned.delete:
            self._cluster.delete_pod(namespace, name)
            log.info("pod.deleted", pod=name, pool=pool.metadata.name)
        for _ in range(planned.create):
            manifest = worker_pod(pool, self._settings.pods, suffix=secrets.token_hex(3))
            if (problem := refusal(self._cluster.create_pod, manifest, pool)) is not None:
                return problem
        return None


def _belongs(pod: dict[str, Any], pool: WorkerPool) -> bool:
    owners = pod["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == pool.metadata.uid for owner in owners)


def _pod(
    pod: dict[str, Any], workers: Mapping[str, jobs.workers.Seen], at_work: Collection[str], memory: _Memory
) -> fleet.Pod:
    metadata = pod["metadata"]
    name = metadata["name"]
    seen = workers.get(name)
    return fleet.Pod(
        name=name,
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        is_dead=(pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"),
        is_leaving=metadata.get("deletionTimestamp") is not None,
        worker=fleet.Worker.of(seen and seen.is_alive),
        silent_since=memory.silent_since.get(name),
        is_busy=name in at_work,
        is_draining=seen is not None and seen.worker.is_draining,
    )


def _status(
    pool: WorkerPool,
    pods: Sequence[fleet.Pod],
    runs: Sequence[fleet.Run],
    *,
    wanted: int,
    problem: str | None,
    before: dict[str, Any],
    now: datetime,
) -> dict[str, Any]:
    here = [pod for pod in pods if not pod.is_leaving and not pod.is_dead]
    open_runs = [run for run in runs if not run.is_leaving and run.finished_at is None]
    return {
        "workers": len(here) + len(open_runs),
        "ready": [*(pod.worker for pod in here), *(run.worker for run in open_runs)].count(fleet.Worker.ALIVE),
        "busy": [*(pod.is_busy for pod in here), *(run.is_busy for run in open_runs)].count(True),
        "draining": sum(pod.is_draining for pod in here),
        "wanted": wanted,
        "selector": f"{POOL_LABEL}={pool.metadata.name}",
        "observedGeneration": pool.metadata.generation,
        "conditions": mirror.conditions(
            [("Ready", problem is None, _reason(pool, problem), problem or "")],
            before.get("conditions") or [],
            now,
        ),
    }


def _reason(pool: WorkerPool, problem: str | None) -> str:
    if problem is None:
        return "AsWanted"
    return "JobRefused" if pool.spec.mode == "job" else "PodRefused"
