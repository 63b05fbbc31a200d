"""DiodeMix's codes with a dense double-precision latent weight, one element at a time."""

import math
from dataclasses import dataclass, field


@dataclass
class LatentCode:
    """One weight: its code moves one level when the latent weight leaves the code's cell.

    The latent weight never strays more than one level from its code: what lies further out is forgotten.
    """

    code: int
    scale: float
    zero: int
    latent: float  # the float weight
    top_code: int

    def step(self, change: float) -> None:
        """Move the latent weight; then the code at most one level, within its range."""
        start = self.latent / self.scale + self.zero - self.code
        excess = min(1.0, max(-1.0, min(1.0, max(-1.0, start)) + change / self.scale))
        self.latent = (self.code - self.zero + excess) * self.scale
        if abs(excess) > 0.5:
            self.code = min(self.top_code, max(0, self.code + int(math.copysign(1, excess))))


@dataclass
class FactoredMoment:
    """Rows and columns of the mean squared gradient, in plain lists."""

    beta: float
    rows: list[float] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)
    steps: int = 0

    def observe(self, grad: list[list[float]]) -> list[list[float]]:
        """Returns grad / sqrt(second moment)."""
        N, K = len(grad), len(grad[0])
        self.rows = self.rows or [0.0] * N
        self.columns = self.columns or [0.0] * K
        self.steps += 1
        for n in range(N):
            mean = sum(value**2 for value in grad[n]) / K
            self.rows[n] = self.beta * self.rows[n] + (1 - self.beta) * mean
        for k in range(K):
            mean = sum(grad[n][k] ** 2 for n in range(N)) / N
            self.columns[k] = self.beta * self.columns[k] + (1 - self.beta) * mean
        correction = 1 - self.beta**self.steps
        rows = [row / correction for row in self.rows]
        columns = [column / correction for column in self.columns]
        mean_row = sum(rows) / N
        return [[grad[n][k] / math.sqrt(rows[n] * columns[k] / mean_row) for k in range(K)] for n in range(N)]
