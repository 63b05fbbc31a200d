"""A matrix of optimizer state in few bits, read and written by rows.

Two scales: fixed (an accumulator within one level of its code: top steps a level) or one float16 per block of 64
neighbours, their largest magnitude (a momentum, whose size nobody knows beforehand).
Writing rounds at random, so that the mean is exact and what is smaller than a step adds up instead of vanishing.

Shape letters: N rows, K columns, R rows at a time, S columns per block.
Source of block-wise state: Dettmers et al. 2022, https://arxiv.org/abs/2110.02861, there with a non-linear code.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.quant.pack import pack, unpack

Kind = Literal["float32", "bfloat16", "int8", "int4"]

_TOP = {"int8": 127, "int4": 7}
_BLOCK = 64


class Dither(NamedTuple):
    """Random numbers of a whole matrix from N + K draws.

    An element's is the fraction of the sum of its row's and its column's, each uniform in 0 .. 1: uniform too, and
    independent for any two elements.
    """

    row_N: Tensor
    column_K: Tensor

    def rows(self, rows: slice) -> Tensor:
        return (self.row_N[rows].unsqueeze(-1) + self.column_K).frac_()


def draw_dither(rows: int, columns: int, random: torch.Generator, device: torch.device) -> Dither:
    return Dither(torch.rand(rows, generator=random).to(device), torch.rand(columns, generator=random).to(device))


class LowBitMatrix:
    """Zeros at first. `within`: every value stays within plus and minus this; None: a scale for each block."""

    def __init__(self, rows: int, columns: int, kind: Kind, device: torch.device, *, within: float | None) -> None:
        self.kind = kind
        self.shape = (rows, columns)
        self._within = within
        self._block = _BLOCK if columns % _BLOCK == 0 else columns
        if kind in _TOP:
            zero = torch.zeros(rows, columns, dtype=torch.int8, device=device)
            self._values = zero if kind == "int8" else _nibbles(zero)
        else:
            dtype = torch.float32 if kind == "float32" else torch.bfloat16
            self._values = torch.zeros(rows, columns, dtype=dtype, device=device)
        blocks = columns // self._block if kind in _TOP and within is None else 0
        self._scale_NB = torch.zeros(rows, blocks, dtype=torch.float16, device=device)

    @property
    def step(self) -> float:
        """Distance of two values of a matrix with fixed scale; 0.0 if it is a float type."""
        return self._within / _TOP[self.kind] if self.kind in _TOP and self._within is not None else 0.0

    def read(self, rows: slice) -> Tensor:
        """float32 (R, K), the caller's own."""
        if self.kind not in _TOP:
            return self._values[rows].to(torch.float32, copy=True)
        values_RK = self._integers(rows).float()
        if self._within is not None:
            return values_RK.mul_(self.step)
        return _blocked(values_RK, self._block).mul_(self._scale_NB[rows].float().unsqueeze(-1)).view_as(values_RK)

    def write_(self, rows: slice, values_RK: Tensor, dither: Dither | None) -> None:
        """Overwrites values_RK. Without a dither it rounds to the nearest."""
        if self._within is not None:
            values_RK.clamp_(-self._within, self._within)
        if self.kind not in _TOP:
            self._values[rows] = values_RK
            return
        top = _TOP[self.kind]
        if self._within is not None:
            values_RK.div_(self.step)
        else:
            blocked_RBS = _blocked(values_RK, self._block)
            # Rounded up, so that the largest still fits; a block of zeros keeps the scale 0 and divides by 1.
            scale_RB = (blocked_RBS.abs().amax(-1) / top * 1.001).half()
            self._scale_NB[rows] = scale_RB
            blocked_RBS.div_(torch.where(scale_RB > 0, scale_RB, 1).float().unsqueeze(-1))
        if dither is None:
            values_RK.round_()
        else:
            values_RK.add_(dither.rows(rows)).floor_()
        integers_RK = values_RK.clamp_(-top, top).to(torch.int8)
        self._values[rows] = integers_RK if self.kind == "int8" else _nibbles(integers_RK)

    def add_(self, rows: slice, change_RK: Tensor, dither: Dither) -> None:
        """Add to some rows of a matrix with fixed scale; overwrites change_RK, which is in units of `unit`."""
        within = self._within
        assert within is not None, "a block's scale is known only once its values are"
        if self.kind not in _TOP:
            self._values[rows] = change_RK.add_(self._values[rows]).clamp_(-within, within)
            return
        top = _TOP[self.kind]
        integers_RK = change_RK.add_(self._integers(rows)).add_(dither.rows(rows)).floor_().clamp_(-top, top)
        self._values[rows] = integers_RK if self.kind == "int8" else _nibbles(integers_RK.to(torch.int8))

    @property
    def unit(self) -> float:
        """What add_ counts in: steps where the matrix has some, so that nothing is scaled twice."""
        return self.step or 1.0

    def beyond(self, limit: float) -> tuple[Tensor, Tensor]:
        """Flat positions of a matrix with fixed scale whose magnitude exceeds a limit, and their values."""
        if self.kind == "int8":
            flat = self._values.view(-1)
            index = (flat.abs() > int(limit / self.step)).nonzero().squeeze(-1)
            return index, flat[index].float().mul_(self.step)
        flat = self.read(slice(None)).view(-1)
        index = (flat.abs() > limit).nonzero().squeeze(-1)
        return index, flat[index]

    def read_at(self, index: Tensor) -> Tensor:
        """float32 values at flat positions of a matrix with fixed scale."""
        assert self._within is not None, "only a matrix with one scale has values by position"
        if self.kind == "int4":
            row, column = index // self.shape[1], index % self.shape[1]
            byte = self._values[row, column // 2]
            return (((byte >> (4 * (column % 2)).to(torch.uint8)) & 15).float() - _TOP["int4"]) * self.step
        values = self._values.view(-1)[index].float()
        return values * self.step if self.kind == "int8" else values

    def add_at_(self, index: Tensor, change: Tensor) -> None:
        """Add to distinct flat positions of a matrix with fixed scale, rounding to the nearest step."""
        within = self._within
        assert within is not None, "only a matrix with one scale has values by position"
        moved = (self.read_at(index) + change).clamp_(-within, within)
        if self.kind == "int4":
            self._put_nibbles(index, (moved / self.step).round_().to(torch.int8))
        elif self.kind == "int8":
            self._values.view(-1)[index] = (moved / self.step).round_().to(torch.int8)
        else:
            self._values.view(-1)[index] = moved.to(self._values.dtype)

    def zero_at_(self, index: Tensor) -> None:
        """Forget the values at distinct flat positions."""
        if self.kind == "int4":
            self._put_nibbles(index, torch.zeros_like(index, dtype=torch.int8))
        else:
            self._values.view(-1)[index] = 0

    def state(self) -> dict[str, Tensor]:
        return {"values": self._values, "scale": self._scale_NB}

    def _integers(self, rows: slice) -> Tensor:
        if self.kind == "int8":
            return self._values[rows]
        return self._from_nibbles(self._values[rows])

    def _put_nibbles(self, index: Tensor, integers: Tensor) -> None:
        """At distinct flat positions; the rows that they lie in are unpacked and packed again."""
        row, where = torch.unique(index // self.shape[1], return_inverse=True)
        integers_RK = self._from_nibbles(self._values[row])
        integers_RK[where, index % self.shape[1]] = integers
        self._values[row] = _nibbles(integers_RK)

    def _from_nibbles(self, packed_RP: Tensor) -> Tensor:
        return unpack(packed_RP, 4, self.shape[1]).to(torch.int8) - _TOP["int4"]


def _nibbles(integers_RK: Tensor) -> Tensor:
    return pack((integers_RK + _TOP["int4"]).to(torch.uint8), 4)


def _blocked(values_RK: Tensor, block: int) -> Tensor:
    return values_RK.view(len(values_RK), -1, block)
