"""Whose job is next: priority, then the project that used the least, then age. Pure.

    usage = device seconds, halved every half-life; divided by the project's weight

A job that gave its worker back because it was asked to goes before the others of its priority. Every admission costs an
entry penalty at once, so that a burst of short jobs cannot outrun the sampling of what runs (the idea is that of
Kueue's admission fair sharing).

Pools do not know each other: what waits for the workers of one is as if there were no others. Only a project's limit of
jobs at a time is one for all pools.
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from bitsmith_core.ids import JobId, ProjectId
from bitsmith_core.pools import DEFAULT_POOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    half_life: timedelta = timedelta(days=2)  # a heavy week is nearly forgotten after the next
    entry_penalty_s: float = 60.0  # device seconds
    max_running: int | None = None  # of one project; its own limit, if it has one, counts instead


DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    job_id: JobId
    project: ProjectId
    priority: int
    has_yielded: bool
    created_at: datetime
    pool: str = DEFAULT_POOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A project as it stands."""

    usage_s: float
    weight: float
    running: int  # with those whose message travels
    max_running: int | None

    @property
    def room(self) -> float:
        """Jobs that may still start."""
        return math.inf if self.max_running is None else max(0, self.max_running - self.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """Another project's waiting jobs as one job sees them; a class is a priority, and having given a worker back."""

    higher: int  # in classes that go before the job's
    equal: int  # in its class
    older: int  # of these; where the age is the same, the project's name decides


def choose(
    waiting: Iterable[Waiting], shares: Mapping[ProjectId, Share], *, free: Mapping[str, int], entry_penalty_s: float
) -> list[JobId]:
    """At most so many of the waiting jobs as workers of each pool are free, in the order in which they are offered."""
    left, room = dict(free), {project: share.room for project, share in shares.items()}
    queues: dict[tuple[str, ProjectId], list[Waiting]] = defaultdict(list)
    for job in sorted(waiting, key=_within_project, reverse=True):
        queues[job.pool, job.project].append(job)  # the next one last, where it is cheap to take
    usage_s = {(pool, project): shares[project].usage_s for pool, project in queues}

    def turn(queue: tuple[str, ProjectId]) -> tuple[int, bool, float, datetime, ProjectId, str]:
        (pool, project), job = queue, queues[queue][-1]
        cost_s = usage_s[queue] / shares[project].weight
        return -job.priority, not job.has_yielded, cost_s, job.created_at, project, pool

    chosen: list[JobId] = []
    while True:
        open_queues = [
            (pool, project)
            for (pool, project), queue in queues.items()
            if queue and left.get(pool, 0) > 0 and room[project] > 0
        ]
        if not open_queues:
            return chosen
        pool, project = min(open_queues, key=turn)
        chosen.append(queues[pool, project].pop().job_id)
        usage_s[pool, project] += entry_penalty_s
        left[pool] -= 1
        room[project] -= 1


def place(
    project: ProjectId,
    before: int,
    rivals: Mapping[ProjectId, Rivals],
    shares: Mapping[ProjectId, Share],
    *,
    entry_penalty_s: float,
) -> int | None:
    """Where among all of its pool `choose` would put a job, 1 is the next; None if its project may not start as many.

    Counted, not played: a start costs its project a penalty, so that those another project has before the job's turn
    follow from what both have used.

    Args:
        before: jobs of its own project, and pool, that go before it.
        rivals: the other projects in that pool.
    """
    if before >= shares[project].room:
        return None

    def cost_s(name: ProjectId, starts: int) -> float:
        return (shares[name].usage_s + starts * entry_penalty_s) / shares[name].weight

    mine_s = cost_s(project, before)
    position = before + 1
    for name, those in rivals.items():
        turns, theirs_s = range(those.higher, those.higher + those.equal), partial(cost_s, name)
        cheaper, as_cheap = bisect_left(turns, mine_s, key=theirs_s), bisect_right(turns, mine_s, key=theirs_s)
        starts = those.higher + max(cheaper, min(as_cheap, those.older))
        position += int(min(starts, shares[name].room))
    return position


def _within_project(job: Waiting) -> tuple[int, bool, datetime, JobId]:
    return (-job.priority, not job.has_yielded, job.created_at, job.job_id)
