"""Whose job is next: priority, then the project that used the least, then age. Pure.

    usage = device seconds, halved every half-life; divided by the project's weight

A job that gave its worker back because it was asked to goes before the others of its priority. Every admission costs an
entry penalty at once, so that a burst of short jobs cannot outrun the sampling of what runs (the idea is that of
Kueue's admission fair sharing).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

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


def choose(
    waiting: Iterable[Waiting], shares: Mapping[ProjectId, Share], *, free: int, entry_penalty_s: float
) -> list[JobId]:
    """At most `free` of the waiting jobs, in the order in which they are to be offered."""
    usage_s = {project: share.usage_s for project, share in shares.items()}
    running = {project: share.running for project, share in shares.items()}
    queues: dict[ProjectId, list[Waiting]] = defaultdict(list)
    for job in sorted(waiting, key=_within_project, reverse=True):
        queues[job.project].append(job)  # the next one last, where it is cheap to take

    chosen: list[JobId] = []
    while len(chosen) < free:
        open_projects = [
            project
            for project, queue in queues.items()
            if queue and not _is_full(running[project], shares[project].max_running)
        ]
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
        running[project] += 1
    return chosen


def _within_project(job: Waiting) -> tuple[int, bool, datetime, JobId]:
    return (-job.priority, not job.has_yielded, job.created_at, job.job_id)


def _is_full(running: int, limit: int | None) -> bool:
    return limit is not None and running >= limit
