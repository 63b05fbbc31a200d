"""The first moment of a layer's gradient: dense in 4 to 32 bits, or in a subspace.

    M  <-  beta M + (1 - beta) G            the decay with a step's first micro-batch, so that micro-batches just add

Low rank: M is kept as M P with an orthonormal P (K, r), the range of G^T times a random matrix, found anew every
REFRESH steps; M moves over by P_old^T P_new. No singular value decomposition anywhere.

Shape letters: N rows, K columns, R rows at a time, r rank.
Sources: Zhao et al. 2024 (GaLore), https://arxiv.org/abs/2403.03507; Halko et al. 2011 (randomized range finder),
https://arxiv.org/abs/0909.4061.
"""

from typing import Protocol

import torch
from torch import Tensor

from bitsmith_engine.optim.lowbit import Dither, Kind, LowBitMatrix
from bitsmith_engine.quant.affine import row_chunks

RANK = 64
REFRESH = 50  # steps


class Momentum(Protocol):
    def add(self, grad_NK: Tensor, *, keep: float, take: float, dither: Dither) -> None:
        """M <- keep M + take G."""

    def read(self, rows: slice) -> Tensor:
        """float32 (R, K)."""

    def write_(self, rows: slice, values_RK: Tensor, dither: Dither) -> None:
        """Replace some rows; overwrites values_RK."""

    def zero_at_(self, index: Tensor) -> None:
        """Forget what flat positions have gathered, where the form can."""

    def state(self) -> dict[str, Tensor]: ...


class DenseMomentum:
    def __init__(self, rows: int, columns: int, kind: Kind, device: torch.device) -> None:
        self._matrix = LowBitMatrix(rows, columns, kind, device, within=None)

    def add(self, grad_NK: Tensor, *, keep: float, take: float, dither: Dither) -> None:
        for rows in row_chunks(grad_NK):
            self._matrix.write_(rows, self._matrix.read(rows).mul_(keep).add_(grad_NK[rows], alpha=take), dither)

    def read(self, rows: slice) -> Tensor:
        return self._matrix.read(rows)

    def write_(self, rows: slice, values_RK: Tensor, dither: Dither) -> None:
        self._matrix.write_(rows, values_RK, dither)

    def zero_at_(self, index: Tensor) -> None:
        self._matrix.zero_at_(index)

    def state(self) -> dict[str, Tensor]:
        return self._matrix.state()


class LowRankMomentum:
    """Holds (N + K) r numbers instead of N K."""

    def __init__(self, rows: int, columns: int, device: torch.device, random: torch.Generator) -> None:
        self._rank = min(RANK, rows, columns)
        self._random = random
        self._moment_Nr = torch.zeros(rows, self._rank, device=device)
        self._basis_Kr = torch.zeros(columns, self._rank, device=device)
        self._age = torch.zeros((), dtype=torch.int64)

    def add(self, grad_NK: Tensor, *, keep: float, take: float, dither: Dither) -> None:
        if keep != 1.0:  # a step's first micro-batch
            if self._age % REFRESH == 0:
                self._turn(grad_NK)
            self._age += 1
        self._moment_Nr.mul_(keep).addmm_(grad_NK, self._basis_Kr, alpha=take)

    def read(self, rows: slice) -> Tensor:
        return self._moment_Nr[rows] @ self._basis_Kr.T

    def write_(self, rows: slice, values_RK: Tensor, dither: Dither) -> None:
        self._moment_Nr[rows] = values_RK @ self._basis_Kr

    def zero_at_(self, index: Tensor) -> None:
        """A subspace cannot forget single elements; the decay does."""

    def state(self) -> dict[str, Tensor]:
        return {"moment": self._moment_Nr, "basis": self._basis_Kr, "age": self._age}

    def _turn(self, grad_NK: Tensor) -> None:
        probe_Nr = torch.randn(len(grad_NK), self._rank, generator=self._random).to(grad_NK.device)
        basis_Kr, _ = torch.linalg.qr(grad_NK.T @ probe_Nr)
        self._moment_Nr.copy_(self._moment_Nr @ (self._basis_Kr.T @ basis_Kr))
        self._basis_Kr.copy_(basis_Kr)
