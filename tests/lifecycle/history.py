"""What must be true of every job whatever happened: a slow oracle that reads tables and knows no product code."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bitsmith_core.db import Database
from sqlalchemy import text

Row = dict[str, Any]

FOLLOWS = {
    "queued": {"running", "paused", "cancelled"},
    "running": {"queued", "paused", "succeeded", "failed", "cancelled"},
    "paused": {"queued", "cancelled"},
    "succeeded": set[str](),
    "failed": set[str](),
    "cancelled": set[str](),
}
OVER = {"succeeded", "failed", "cancelled"}
TRIES = {"infra": 6, "resource": 2, "data": 1, "config": 1, "divergence": 2, "unknown": 2}  # the first and the retries

_LOOK = text(
    """
    SELECT 'jobs' AS kind, id AS job_id, 0 AS number, to_jsonb(jobs) AS row FROM jobs
    UNION ALL SELECT 'attempts', job_id, number, to_jsonb(attempts) FROM attempts
    UNION ALL SELECT 'events', job_id, seq, to_jsonb(job_events) FROM job_events
    UNION ALL SELECT 'checkpoints', job_id, step, to_jsonb(checkpoints) FROM checkpoints
    UNION ALL SELECT 'metrics', job_id, first_step, to_jsonb(metric_chunks) FROM metric_chunks
    UNION ALL SELECT 'versions', job_id, number, to_jsonb(versions) - 'is_newest' FROM versions  -- until the next one
    UNION ALL SELECT 'live', id, 0, to_jsonb(lease_token) FROM jobs WHERE lease_expires_at > now() + interval '1 s'
    UNION ALL SELECT 'told', payload->'data'->>'id', 0, payload FROM webhook_deliveries WHERE type LIKE 'fine_tuning%'
    ORDER BY 1, 2, 3, 4
    """
)


@dataclass(frozen=True)
class Story:
    """Everything the tables say of one job."""

    job: Row
    attempts: list[Row]
    events: list[Row]
    checkpoints: list[Row]
    metrics: list[Row]
    versions: list[Row]
    told: list[Row]
    live: list[Any] = field(compare=False)  # the lease, if it has surely not run out yet; that depends on the clock

    @property
    def status(self) -> str:
        return str(self.job["status"])


def look(database: Database) -> dict[str, Story]:
    with database.transaction() as tx:
        found = tx.execute(_LOOK).all()
    of_kind: dict[str, dict[str, list[Row]]] = {}
    for kind, job_id, _, row in found:
        of_kind.setdefault(job_id, {}).setdefault(kind, []).append(row)
    return {
        job_id: Story(
            job=kinds["jobs"][0],
            **{kind: kinds.get(kind, []) for kind in Story.__dataclass_fields__ if kind != "job"},
        )
        for job_id, kinds in of_kind.items()
    }


def check(story: Story) -> None:
    """What holds at any moment."""
    job, status = story.job, story.status

    open_attempts = [attempt["number"] for attempt in story.attempts if attempt["ended_at"] is None]
    assert open_attempts == ([job["attempt_no"]] if status == "running" else []), "one live attempt, and only one"
    assert [attempt["number"] for attempt in story.attempts] == list(range(1, job["attempt_no"] + 1))
    assert (status == "running") == (job["lease_token"] is not None) == (job["lease_worker"] is not None)
    assert (status == "running") == (job["lease_expires_at"] is not None)

    assert [event["seq"] for event in story.events] == list(range(1, job["last_seq"] + 1)), "no gaps, no doubles"
    told = Counter(event["data"]["event"] for event in story.events)
    assert sum(told[f"job.{end}"] for end in OVER) == (status in OVER), "one end, and only one"
    assert told["job.started"] == job["attempt_no"]

    assert len(story.versions) == (status == "succeeded"), "a success is published once, anything else never"
    ends = Counter(notice["type"] for notice in story.told if notice["type"] != "fine_tuning.job.paused")
    assert ends == ({f"fine_tuning.job.{status}": 1} if status in OVER else {})

    outcomes = Counter(attempt["outcome"] for attempt in story.attempts)
    assert outcomes["succeeded"] == (status == "succeeded")
    for failure, tries in TRIES.items():
        assert outcomes[failure] <= tries, f"{outcomes[failure]} attempts ended as {failure}"
        assert outcomes[failure] < tries or status in {"failed", "cancelled"}

    in_training = [kept["step"] for kept in story.checkpoints if kept["step"]]
    assert len(in_training) <= 2
    numbers = {attempt["number"] for attempt in story.attempts}
    assert {row["attempt"] for row in story.checkpoints + story.metrics} <= numbers


def check_step(before: Story, after: Story, *, transactions: int, keeps_leases: bool) -> None:
    """What holds from one moment to the next.

    Args:
        transactions: at most so many between them.
        keeps_leases: none of them spoke for an attempt and ended it.
    """
    if before.status in OVER:
        assert after == before, f"what is over changed: {differences(before, after)}"
    reachable = {before.status}
    for _ in range(transactions):
        reachable |= {follower for status in reachable for follower in FOLLOWS[status]}
    assert after.status in reachable, f"{before.status} became {after.status}"

    assert after.events[: len(before.events)] == before.events, "history only grows"
    for earlier, later in zip(before.attempts, after.attempts, strict=False):
        assert earlier["ended_at"] is None or later == earlier, "what ended stays as it ended"
    if keeps_leases:
        assert not before.live or after.job["lease_token"] == before.live[0], "a live lease is nobody else's to end"
    assert after.job["attempt_no"] >= before.job["attempt_no"]
    assert after.job["version"] >= before.job["version"]


def differences(before: Story, after: Story) -> list[str]:
    """For a person who reads a failure."""
    found = []
    for kind in Story.__dataclass_fields__:
        if (was := getattr(before, kind)) != (now := getattr(after, kind)):
            found.append(f"{kind}: {was} became {now}")
    return found
