"""Whose job is next: priority, then the project that used the least, then age. Pure.

    usage = device seconds, halved every half-life; divided by the project's weight

A job that gave its worker back because it was asked to goes before the others of its priority. Every admission costs an
entry penalty at once, so that a burst of short jobs cannot outrun the sampling of what runs (the idea is that of
Kueue's admission fair sharing).
"""

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from bitsmith_core.ids import JobId, ProjectId


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
    waiting: Iterable[Waiting], shares: Mapping[ProjectId, Share], *, free: int, entry_penalty_s: float
) -> list[JobId]:
    """At most `free` of the waiting jobs, in the order in which they are to be offered."""
    usage_s = {project: share.usage_s for project, share in shares.items()}
    room = {project: share.room for project, share in shares.items()}
    queues: dict[ProjectId, list[Waiting]] = defaultdict(list)
    for job in sorted(waiting, key=_within_project, reverse=True):
        queues[job.project].append(job)  # the next one last, where it is cheap to take

    chosen: list[JobId] = []
    while len(chosen) < free:
        open_projects = [project for project, queue in queues.items() if queue and room[project] > 0]
        if not open_projects:
            break
        project = min(
            open_projects,
            key=lambda name: (
                -queues[name][-1].priority,
                not queues[name][-1].has_yielded,
                usage_s[name] / shares[name].weight,
                queues[name][-1].created_at,
                name,
            ),
        )
        chosen.append(queues[project].pop().job_id)
        usage_s[project] += entry_penalty_s
        room[project] -= 1
    return chosen


def place(
    project: ProjectId,
    before: int,
    rivals: Mapping[ProjectId, Rivals],
    shares: Mapping[ProjectId, Share],
    *,
    entry_penalty_s: float,
) -> int | None:
    """Where among all `choose` would put a job, 1 is the next; None if its project may not start as many.

    Counted, not played: a start costs its project a penalty, so that those another project has before the job's turn
    follow from what both have used.

    Args:
        before: jobs of its own project that go before it.
        rivals: the other projects.
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
