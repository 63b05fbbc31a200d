"""What a run's steps get of the peak learning rates and of the flip budget."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Linear warm-up, then a cosine to zero."""

    steps: int
    warmup_fraction: float

    def factor(self, step: int) -> float:
        """Of the peak rate, at this step (counted from 0)."""
        warmup = round(self.steps * self.warmup_fraction)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def share_until(self, step: int) -> float:
        """Of a budget for the whole run, what may be spent by the end of this step: in step with the learning rate."""
        if step >= self.steps - 1:
            return 1.0
        sums = _sums(self)
        return sums[step] / sums[-1]


@cache
def _sums(schedule: Schedule) -> list[float]:
    """Of the factors up to and with each step; asked at every step of a run."""
    return list(accumulate(schedule.factor(step) for step in range(schedule.steps)))
