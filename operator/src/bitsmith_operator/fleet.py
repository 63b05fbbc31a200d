"""How many workers a pool should have, and which pods come and go. Pure.

A pod goes only when its worker has been drained and holds no job, or when it has no worker (yet), or is dead: a worker
that is draining takes no job, so between looking and deleting nothing can begin on it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

SILENT_FOR = timedelta(minutes=15)  # images are large; a pod without a word from a worker for so long is replaced


class Worker(StrEnum):
    ABSENT = "absent"  # never reported, or left
    ALIVE = "alive"
    SILENT = "silent"  # reported once. It may be at work behind a broken network, and so may all after an outage

    @classmethod
    def of(cls, is_alive: bool | None) -> Self:
        """
        Args:
            is_alive: None: the database knows nobody of that name.
        """
        return cls.ABSENT if is_alive is None else cls.ALIVE if is_alive else cls.SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of the pool, and the worker in it, which has its name."""

    name: str
    template: str  # digest of what it was made from
    created_at: datetime
    is_dead: bool  # ended, or on a node that is gone
    is_leaving: bool  # Kubernetes takes it away already
    worker: Worker
    silent_since: datetime | None = None  # when it was first seen without a live worker
    is_busy: bool = False  # holds a job, even one whose lease ran out
    is_draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    least: int
    most: int
    idle_for: timedelta  # a worker too many is kept warm


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    create: int
    drain: tuple[str, ...]
    undrain: tuple[str, ...]  # they took a job a moment before they were drained
    delete: tuple[str, ...]
    surplus_since: datetime | None  # since when there are more than wanted; None: there are not


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A Kubernetes Job of a pool, whose worker has its name and makes one attempt."""

    name: str
    is_leaving: bool
    finished_at: datetime | None
    worker: Worker
    is_busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Of a pool whose Jobs end by themselves: nothing is ever ended here that may be at work."""

    create: int
    forget: tuple[str, ...]  # finished long ago; older servers leave that to others


def launch(runs: Sequence[Run], *, wanted: int, kept_for: timedelta, now: datetime) -> Launch:
    open_runs = sum(run.finished_at is None and not run.is_leaving for run in runs)
    old = [run for run in runs if run.finished_at is not None and now - run.finished_at > kept_for]
    return Launch(
        create=max(0, wanted - open_runs),
        forget=tuple(run.name for run in old if not run.is_leaving and not run.is_busy),
    )


def share(waiting: Mapping[str, int], names: Sequence[str], sizes: Sequence[Size], busy: Sequence[int]) -> list[int]:
    """Workers wanted of each WorkerPool: what runs stays where it is, what waits goes where room is first. Those whose
    workers are of one pool, by name, are filled in order; those of another have nothing to do with it.

    Args:
        waiting: jobs that wait for a worker, by the pool that they name.
        names: of the pool that each one's workers belong to.
        busy: workers of each that hold a job.
    """
    wanted = [max(size.least, running) for size, running in zip(sizes, busy, strict=True)]
    left = Counter(waiting)
    for name, want, running in zip(names, wanted, busy, strict=True):
        left[name] += running - want
    for at, (name, size) in enumerate(zip(names, sizes, strict=True)):
        more = max(0, min(left[name], size.most - wanted[at]))
        wanted[at] += more
        left[name] -= more
    return wanted


def plan(
    pods: Sequence[Pod],
    *,
    wanted: int,
    idle_for: timedelta,
    template: str,
    surplus_since: datetime | None,
    drained: Collection[str],
    now: datetime,
) -> Plan:
    """What to do this round.

    Args:
        template: digest of what pods are made from now; those of another are replaced, one idle pod at a time.
        surplus_since: as the plan before said.
        drained: pods that plans before drained. Others who drain were told to by a person.
    """
    here = [pod for pod in pods if not pod.is_leaving]
    gone = [pod for pod in here if pod.is_dead or _is_stuck(pod, now) or (pod.is_draining and not pod.is_busy)]
    kept = [pod for pod in here if pod not in gone]
    over = len(kept) - wanted
    since = (surplus_since or now) if over > 0 else None
    may_shrink = since is not None and now - since >= idle_for
    leaving = _surplus(kept, over) if may_shrink else []
    leaving += _outdated(kept, template, but=leaving)
    absent = [pod for pod in leaving if pod.worker is Worker.ABSENT]
    return Plan(
        create=max(0, wanted - len(kept)),
        drain=tuple(pod.name for pod in leaving if pod not in absent),
        undrain=tuple(pod.name for pod in kept if pod.is_draining and pod.name in drained),
        delete=tuple(pod.name for pod in [*gone, *absent]),
        surplus_since=since,
    )


def _is_stuck(pod: Pod, now: datetime) -> bool:
    return pod.silent_since is not None and not pod.is_busy and now - pod.silent_since > SILENT_FOR


def _surplus(pods: Sequence[Pod], count: int) -> list[Pod]:
    """Those to let go: first who has no worker yet, then the youngest; nobody busy, nobody who does not answer."""
    idle = [pod for pod in pods if not pod.is_busy and pod.worker is not Worker.SILENT]
    idle.sort(key=lambda pod: (pod.worker is not Worker.ABSENT, -pod.created_at.timestamp(), pod.name))
    return idle[:count]


def _outdated(pods: Sequence[Pod], template: str, *, but: Sequence[Pod]) -> list[Pod]:
    """One idle pod of an older template, once the pods of the new one all have workers."""
    if any(pod.template == template and pod.worker is not Worker.ALIVE for pod in pods):
        return []
    old = [pod for pod in pods if pod.template != template and not pod.is_busy and pod.worker is not Worker.SILENT]
    return sorted((pod for pod in old if pod not in but), key=lambda pod: (pod.created_at, pod.name))[:1]
