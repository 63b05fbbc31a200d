"""Every pair of states is either allowed or refused, as this table says."""

import pytest
from bitsmith_core.errors import IllegalTransition
from bitsmith_core.ids import JobId
from bitsmith_core.jobs.states import JobStatus, check_transition

Q, R, P, S, F, C = (JobStatus(name) for name in ("queued", "running", "paused", "succeeded", "failed", "cancelled"))
ALLOWED = {(Q, R), (Q, P), (Q, C), (R, Q), (R, P), (R, S), (R, F), (R, C), (P, Q), (P, C)}


@pytest.mark.parametrize("current", JobStatus)
@pytest.mark.parametrize("wanted", JobStatus)
def test_the_transition_table(current: JobStatus, wanted: JobStatus) -> None:
    if (current, wanted) in ALLOWED:
        check_transition(JobId("ftjob-x"), current, wanted)
    else:
        with pytest.raises(IllegalTransition, match=f"is {current} and cannot become {wanted}"):
            check_transition(JobId("ftjob-x"), current, wanted)
