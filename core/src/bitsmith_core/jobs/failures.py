"""Whether a failed attempt is repeated: a budget per class of failure, and back-off. Pure."""

from collections.abc import Sequence
from datetime import timedelta

from bitsmith_core.wire import FailureClass

RETRIES: dict[FailureClass, int | None] = {
    FailureClass.YIELD: None,  # asked to stop; never the job's fault
    FailureClass.INFRA: 5,
    FailureClass.RESOURCE: 1,
    FailureClass.DATA: 0,
    FailureClass.CONFIG: 0,
    FailureClass.DIVERGENCE: 0,  # a deterministic engine would diverge again
    FailureClass.UNKNOWN: 1,
}
"""How many attempts of one class a job survives; None is unlimited."""

FIRST_DELAY = timedelta(seconds=2)
LONGEST_DELAY = timedelta(minutes=5)


def retry_delay(failure: FailureClass, earlier_outcomes: Sequence[str]) -> timedelta | None:
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
