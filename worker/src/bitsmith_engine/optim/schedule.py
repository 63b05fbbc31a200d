"""What a run's steps get of the peak learning rates and of the flip budget."""

import math
from dataclasses import dataclass


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
        factors = [self.factor(at) for at in range(self.steps)]
        return sum(factors[: step + 1]) / sum(factors)
