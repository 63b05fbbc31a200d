"""Whether a failed attempt is repeated, when, and what the next one does otherwise. Pure.

Each class of failure has a budget of its own. A step of training that fails twice is poison, whatever the classes: no
retry helps against it. Losing a worker is no argument about a step: it says nothing about what the worker was doing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bitsmith_core.wire import Failed, FailureClass, Stage

INFRA_RETRIES = 5

RETRIES: dict[FailureClass, int | None] = {
    FailureClass.YIELD: None,  # asked to stop; never the job's fault
    FailureClass.INFRA: INFRA_RETRIES,
    FailureClass.RESOURCE: 1,  # with half the micro-batch, or on another worker
    FailureClass.DATA: 0,
    FailureClass.CONFIG: 0,
    FailureClass.DIVERGENCE: 1,  # from the last good checkpoint, at half the rates and flip budget
    FailureClass.UNKNOWN: 1,
}
"""How many attempts of one class a job survives; None is unlimited."""

POISON_STEP = "poison_step"
DISK_FULL = "disk_full"
AVOIDED_WORKER = "avoid_worker"  # an adjustment that the platform itself heeds

FIRST_DELAY = timedelta(seconds=2)
LONGEST_DELAY = timedelta(minutes=5)

_CAN_BE_A_STEPS_FAULT = {FailureClass.RESOURCE, FailureClass.DIVERGENCE, FailureClass.UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """How one attempt ended."""

    outcome: str | None
    stage: str | None = None
    end_step: int | None = None  # the last one of training that it reported


def retry_delay(failure: FailureClass, earlier_outcomes: Sequence[str | None]) -> timedelta | None:
    """How long to wait before the next attempt, None if there is none.

    Args:
        earlier_outcomes: outcomes of the attempts before the one that just failed.
    """
    budget = RETRIES[failure]
    if budget is None:
        return timedelta(0)
    same = sum(outcome == failure for outcome in earlier_outcomes)
    if same >= budget:
        return None
    delay: timedelta = FIRST_DELAY * 2**same
    return min(delay, LONGEST_DELAY)


def is_poison(now: Try, earlier: Sequence[Try]) -> bool:
    """Whether an attempt failed at the very step of training at which an earlier one did."""
    if now.outcome not in _CAN_BE_A_STEPS_FAULT or now.stage != Stage.TRAINING or now.end_step is None:
        return False
    return any(
        past.outcome in _CAN_BE_A_STEPS_FAULT and (past.stage, past.end_step) == (now.stage, now.end_step)
        for past in earlier
    )


def adjusted(
    adjustments: Mapping[str, Any], failure: Failed, *, spec: Mapping[str, Any], worker: str | None
) -> dict[str, Any]:
    """What the next attempt does otherwise, given what the failed one did otherwise already."""
    changed = dict(adjustments)
    if failure.failure is FailureClass.DIVERGENCE:
        changed["step_factor"] = adjustments.get("step_factor", 1.0) / 2
    if failure.failure is FailureClass.RESOURCE and failure.code == DISK_FULL:
        changed[AVOIDED_WORKER] = worker
    elif failure.failure is FailureClass.RESOURCE:
        size = adjustments.get("micro_batch_size") or _micro_batch_size(spec)
        if size is not None and size > 1:
            changed["micro_batch_size"] = size // 2
    return changed


def _micro_batch_size(spec: Mapping[str, Any]) -> int | None:
    """Of a resolved spec; None for a method that does not train."""
    method = spec["method"]
    training = method[method["type"]].get("training")
    return None if training is None else training["micro_batch_size"] or training["batch_size"]
