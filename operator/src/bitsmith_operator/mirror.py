"""A job's life as the status of its FineTuneJob. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

PHASES = {
    "queued": "Queued",
    "running": "Running",
    "paused": "Suspended",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the database says of the job."""

    job_id: str
    status: str
    stage: str | None
    done: int
    total: int
    attempts: int
    reason_code: str | None
    reason_message: str | None
    result: str | None  # name@version
    has_changed_spec: bool  # the object asks for something else than was submitted
    is_suspended: bool  # by the object


def status_of(seen: Seen, *, generation: int, before: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The whole status; a condition keeps its time while it stays as it is."""
    phase = PHASES[seen.status]
    stated = [
        ("Accepted", True, "Submitted", f"job {seen.job_id}"),
        ("Running", seen.status == "running", phase, ""),
        ("Complete", seen.status == "succeeded", phase, seen.result or ""),
        ("Failed", seen.status in ("failed", "cancelled"), _reason(seen), seen.reason_message or ""),
    ]
    if seen.has_changed_spec:
        told = "the spec changed after it was submitted; the job goes on as it was. Make another object for the new one"
        stated.append(("SpecChanged", True, "Immutable", told))
    status: dict[str, Any] = {
        "jobId": seen.job_id,
        "phase": phase,
        "attempts": seen.attempts,
        "observedGeneration": generation,
        "conditions": conditions(stated, before.get("conditions") or [], now),
    }
    if seen.is_suspended:
        status["suspended"] = True
    if seen.stage is not None:
        status["stage"] = seen.stage
    if seen.total:
        status["progress"] = f"{min(100, 100 * seen.done // seen.total)}%"
    if seen.result is not None:
        status["modelVersion"] = seen.result
    return status


def is_over(status: dict[str, Any], *, generation: int) -> bool:
    """Whether all was said: the job ended, and nobody has changed the object since."""
    is_end = status.get("phase") in ("Succeeded", "Failed", "Cancelled")
    return is_end and status.get("observedGeneration") == generation


def refused(
    problem: str, *, generation: int, before: dict[str, Any], now: datetime, reason: str = "InvalidSpec"
) -> dict[str, Any]:
    """The status of an object that cannot become what it describes, as long as nothing changes."""
    stated = [("Accepted", False, reason, problem)]
    return {
        "phase": "Refused",
        "observedGeneration": generation,
        "conditions": conditions(stated, before.get("conditions") or [], now),
    }


def _reason(seen: Seen) -> str:
    """A condition's reason is CamelCase: out_of_memory is OutOfMemory."""
    words = (seen.reason_code or seen.status).split("_")
    return "".join(word[:1].upper() + word[1:] for word in words)


def conditions(
    stated: list[tuple[str, bool, str, str]], before: list[dict[str, Any]], now: datetime
) -> list[dict[str, Any]]:
    earlier = {condition.get("type"): condition for condition in before}
    made = []
    for type_, holds, reason, message in stated:
        value = "True" if holds else "False"
        old = earlier.get(type_, {})
        same = old.get("status") == value and old.get("lastTransitionTime")
        since = old["lastTransitionTime"] if same else now.isoformat(timespec="seconds").replace("+00:00", "Z")
        made.append(
            {"type": type_, "status": value, "reason": reason, "message": message[:1024], "lastTransitionTime": since}
        )
    return made


def told(error: Exception, given: Mapping[str, Any]) -> str:
    """For a person who reads the object's status.

    Args:
        given: what was read; pydantic's places name the tags of unions, too, which stand in no object.
    """
    if isinstance(error, ValidationError):
        return "; ".join(f"{_place(found['loc'], given)}: {found['msg']}" for found in error.errors())
    return str(error)


def _place(loc: Sequence[str | int], given: Any) -> str:
    kept = []
    for number, part in enumerate(loc):
        inside = dict(enumerate(given)) if isinstance(given, list) else given
        if isinstance(inside, Mapping) and part in inside:
            given = inside[part]
        elif number < len(loc) - 1:
            continue
        kept.append(str(part))
    return ".".join(kept)
