"""A job's history, as a list and as server-sent events."""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import JobStatus
from bitsmith_core.wire import Stage
from pydantic import BaseModel, Field

from bitsmith_api.schemas.pages import Listed, Page
from bitsmith_api.schemas.times import UnixSeconds, unix

MAX_SEQ = 2**31 - 1

_OPENAI_NAMES = {"loss": "train_loss", "held_out_loss": "valid_loss"}


class Event(Listed):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str = Field(description="job id and number", examples=["ftjob-0kp1p4n3vtsu5qc1q0o8g0a4lk:4"])
    seq: int = Field(description="1, 2, 3, … without gaps within the job")
    created_at: UnixSeconds
    level: str = Field(examples=["info"])
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] = Field(
        description="`event` says what happened; the rest depends on it. Of training steps also OpenAI's `step`, "
        "`total_steps`, `train_loss` and `valid_loss`, as far as they are known",
        examples=[{"event": "progress", "stage": "training", "done": 3, "total": 9, "metrics": {"loss": 2.0}}],
    )

    @classmethod
    def of(cls, row: jobs.JobEvent) -> Self:
        return cls(
            id=event_id(row.job_id, row.seq),
            seq=row.seq,
            created_at=unix(row.created_at),
            level=row.level,
            type="metrics" if row.type == "metrics" else "message",
            message=row.message,
            data={**_as_openai_plots_it(row.data), **row.data},
        )


def _as_openai_plots_it(data: Mapping[str, Any]) -> dict[str, float]:
    """A training step's numbers under OpenAI's names, without those that nobody measured; nothing of other stages."""
    if data.get("event") != "progress" or data["stage"] != Stage.TRAINING:
        return {}
    facts = {"step": data["done"], "total_steps": data["total"] or None}
    facts |= {theirs: data["metrics"].get(ours) for ours, theirs in _OPENAI_NAMES.items()}
    return {name: value for name, value in facts.items() if value is not None}


class LiveProgress(BaseModel):
    """How far the running stage is, and what it measured last."""

    attempt: int
    stage: str
    done: int
    total: int
    eta_s: float | None
    metrics: dict[str, float]

    @classmethod
    def of(cls, row: jobs.Job) -> Self | None:
        """None unless it runs and its engine has said something."""
        if row.status != JobStatus.RUNNING or not row.progress:
            return None
        return cls(attempt=row.attempt_no, **{"eta_s": None, "metrics": {}} | row.progress)


class EventList(Page[Event]):
    pass


def event_id(job_id: JobId, seq: int) -> str:
    return f"{job_id}:{seq}"


def event_seq(job_id: JobId, text: str) -> int | None:
    """The number in an event id of this job, None for any other text."""
    job, _, number = text.rpartition(":")
    return seq_number(number) if job == job_id else None


def seq_number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    number = int(text)
    return number if number <= MAX_SEQ else None


def stream_event(event: Event) -> str:
    """One event as a server sends it; JSON has no raw line breaks, so one data line is enough."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n"


def stream_progress(progress: LiveProgress) -> str:
    """Without an id: it is not part of the history, and a client that comes back continues after the last event."""
    return f"event: progress\ndata: {progress.model_dump_json()}\n\n"


def stream_done(status: JobStatus) -> str:
    return f"event: done\ndata: {json.dumps({'status': status})}\n\n"
