"""How the codes of one layer come to want a move: the rules behind one interface.

A rule sees every micro-batch's gradient, then says which codes want to move where and how much, and is told which did.
The float fine-tune's step, in levels, is

    d  =  rate / scale * u,     u = direction / sqrt(v)

with v the factored second moment of the batch gradient and, for a direction, the gradient g or its momentum m
(corrected for its start at zero).

    residual   a <- a - d, started at the rounding residual;  wants to move where |a| > 1/2;  a -= 1 level once moved
    rank       wants to everywhere, |u| decides;              m = 0 once moved
    sr         wants to with the probability |d|
    eco        wants to where |d| > 1/2;                      the error goes back, m += (1 - 1 / beta) e m / (-d)
    adam_rtn   wants to where |d| > 1/2;                      what is smaller is forgotten

Shape letters: N rows, K columns, R rows at a time, G groups per row, C codes that want to move.
Sources. eco: Nikdan et al. 2026, https://arxiv.org/abs/2601.22101; sr: Zhao et al. 2024,
https://arxiv.org/abs/2412.04787; adam_rtn: qweight_update_fn of bitorch-engine.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from bitsmith_engine.optim.lowbit import Dither, LowBitMatrix
from bitsmith_engine.optim.momentum import Momentum
from bitsmith_engine.quant.affine import row_chunks

_ROUNDED = 0.02  # of a level: scales and kept weights are float16
_INSIDE = 0.49  # of a level: where a move that was taken back starts again


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What a rule must know of its layer at this step. Rows are those that this process is responsible for."""

    codes_NK: Tensor
    top_code: int
    row_root_N: Tensor  # row_root * column_root = 1 / sqrt(v)
    column_root_K: Tensor
    levels_NG: Tensor  # rate / scale
    dither: Dither

    def normalized_(self, direction_RK: Tensor, rows: slice) -> Tensor:
        """u, in the place of the direction."""
        return direction_RK.mul_(self.column_root_K).mul_(self.row_root_N[rows].unsqueeze(-1))

    def in_levels_(self, u_RK: Tensor, rows: slice) -> Tensor:
        """d, in the place of u."""
        levels_RG = self.levels_NG[rows]
        u_RK.view(len(u_RK), levels_RG.shape[1], -1).mul_(levels_RG.unsqueeze(-1))
        return u_RK


class Wishes(NamedTuple):
    """Codes that want to move by one level and have room."""

    index_C: Tensor  # flat positions
    score_C: Tensor  # the larger, the sooner
    up_C: Tensor
    saturated: int  # codes that wanted to leave their range


class CodeRule(Protocol):
    is_budgeted: ClassVar[bool]
    """False: it decides itself how many move."""

    def receive(self, grad_NK: Tensor, now: Now, *, is_first: bool) -> None:
        """One micro-batch, the first of a step marked. May overwrite the gradient."""

    def wishes(self, now: Now) -> Wishes:
        """After a step's last micro-batch."""

    def moved(self, index: Tensor, up: Tensor) -> None: ...

    def taken_back(self, index: Tensor, up: Tensor) -> None:
        """Moves in the direction `up` were undone."""

    def state(self) -> dict[str, Tensor]: ...


class Average:
    """A momentum, corrected for its start at zero, and the gate on its ratio of signal to noise."""

    def __init__(self, momentum: Momentum, beta: float, gate_sigma: float) -> None:
        self.momentum = momentum
        self.beta = beta
        # An average of independent noise with variance v has the variance v (1 - beta) / (1 + beta).
        self._gate = gate_sigma * ((1 - beta) / (1 + beta)) ** 0.5
        self._steps = torch.zeros((), dtype=torch.int64)

    def receive(self, grad_NK: Tensor, now: Now, *, is_first: bool) -> None:
        self._steps += is_first
        self.momentum.add(grad_NK, keep=self.beta if is_first else 1.0, take=1 - self.beta, dither=now.dither)

    def normalized(self, now: Now, rows: slice) -> Tensor:
        correction = 1 - self.beta ** max(1, int(self._steps))
        return now.normalized_(self.momentum.read(rows).div_(correction), rows)

    def passes(self, u_RK: Tensor) -> Tensor:
        passes_RK: Tensor = u_RK.abs() > self._gate
        return passes_RK

    def state(self) -> dict[str, Tensor]:
        return self.momentum.state() | {"steps": self._steps}


class Residual:
    is_budgeted: ClassVar[bool] = True

    def __init__(self, accumulator: LowBitMatrix, average: Average | None) -> None:
        self._accumulator = accumulator
        self._average = average

    def receive(self, grad_NK: Tensor, now: Now, *, is_first: bool) -> None:
        if self._average is not None:
            self._average.receive(grad_NK, now, is_first=is_first)
            return
        per_unit_NG = now.levels_NG * now.row_root_N.unsqueeze(-1) / -self._accumulator.unit
        for rows in row_chunks(grad_NK):
            change_RK = grad_NK[rows].mul_(now.column_root_K)
            change_RK.view(len(change_RK), per_unit_NG.shape[1], -1).mul_(per_unit_NG[rows].unsqueeze(-1))
            self._accumulator.add_(rows, change_RK, now.dither)

    def wishes(self, now: Now) -> Wishes:
        if self._average is None:
            return _with_room(*self._accumulator.beyond(0.5), now)
        passes = [self._follow(self._average, now, rows) for rows in row_chunks(now.codes_NK)]
        index, signed = self._accumulator.beyond(0.5)
        may = torch.cat(passes).view(-1)[index]
        return _with_room(index[may], signed[may], now)

    def _follow(self, average: Average, now: Now, rows: slice) -> Tensor:
        """Move the accumulator by the momentum; returns where that passes the gate."""
        u_RK = average.normalized(now, rows)
        passes_RK = average.passes(u_RK)
        self._accumulator.add_(rows, now.in_levels_(u_RK, rows).div_(-self._accumulator.unit), now.dither)
        return passes_RK

    def moved(self, index: Tensor, up: Tensor) -> None:
        self._accumulator.add_at_(index, torch.where(up, -1.0, 1.0))

    def taken_back(self, index: Tensor, up: Tensor) -> None:
        inside = torch.where(up, _INSIDE, -_INSIDE)
        self._accumulator.add_at_(index, inside - self._accumulator.read_at(index))

    def state(self) -> dict[str, Tensor]:
        own = {f"accumulator.{key}": value for key, value in self._accumulator.state().items()}
        return own | ({} if self._average is None else self._average.state())


class _FromMomentum:
    """Rules whose only state is the momentum."""

    is_budgeted: ClassVar[bool] = False

    def __init__(self, average: Average) -> None:
        self._average = average

    def receive(self, grad_NK: Tensor, now: Now, *, is_first: bool) -> None:
        self._average.receive(grad_NK, now, is_first=is_first)

    def wishes(self, now: Now) -> Wishes:
        found = []
        for rows in row_chunks(now.codes_NK):
            u_RK = self._average.normalized(now, rows)
            passes_RK = self._average.passes(u_RK)
            found.append(_pick(*self._weigh(u_RK, passes_RK, now, rows), now, rows))
        return _joined(found)

    def moved(self, index: Tensor, up: Tensor) -> None:
        pass

    def taken_back(self, index: Tensor, up: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return self._average.state()

    def _weigh(self, u_RK: Tensor, passes_RK: Tensor, now: Now, rows: slice) -> tuple[Tensor, Tensor]:
        """(how much each code wants to go up, whether it does and passes the gate); may overwrite u_RK."""
        raise NotImplementedError


class Rank(_FromMomentum):
    is_budgeted = True

    def moved(self, index: Tensor, up: Tensor) -> None:
        self._average.momentum.zero_at_(index)

    def _weigh(self, u_RK: Tensor, passes_RK: Tensor, now: Now, rows: slice) -> tuple[Tensor, Tensor]:
        return u_RK.neg_(), passes_RK & (u_RK != 0)


class StochasticRounding(_FromMomentum):
    def __init__(self, average: Average, random: torch.Generator) -> None:
        super().__init__(average)
        self._random = random

    def _weigh(self, u_RK: Tensor, passes_RK: Tensor, now: Now, rows: slice) -> tuple[Tensor, Tensor]:
        d_RK = now.in_levels_(u_RK, rows)
        chance_RK = torch.rand(d_RK.shape, generator=self._random).to(d_RK.device)
        return d_RK.neg_(), passes_RK & (d_RK.abs() > chance_RK)


class AdamRoundToNearest(_FromMomentum):
    def _weigh(self, u_RK: Tensor, passes_RK: Tensor, now: Now, rows: slice) -> tuple[Tensor, Tensor]:
        d_RK = now.in_levels_(u_RK, rows)
        return d_RK.neg_(), passes_RK & (d_RK.abs() > 0.5)


class ErrorIntoMomentum(_FromMomentum):
    def _weigh(self, u_RK: Tensor, passes_RK: Tensor, now: Now, rows: slice) -> tuple[Tensor, Tensor]:
        move_RK = now.in_levels_(u_RK, rows).neg_()
        wants_RK = passes_RK & (move_RK.abs() > 0.5)
        codes_RK = now.codes_NK[rows]
        has_room_RK = torch.where(move_RK > 0, codes_RK < now.top_code, codes_RK > 0)
        error_RK = move_RK - move_RK.sign() * (wants_RK & has_room_RK)
        # e m / (-d): where nothing moves, m itself; else m times the share of the step that is left.
        moment_RK = self._average.momentum.read(rows)
        share_RK = torch.where(move_RK != 0, error_RK / move_RK, 0.0)
        back = 1 / self._average.beta - 1 if self._average.beta else 0.0
        self._average.momentum.write_(rows, moment_RK.addcmul_(moment_RK, share_RK, value=back), now.dither)
        return move_RK, wants_RK


def start_at(residual_RK: Tensor, codes_RK: Tensor, top_code: int, accumulator: LowBitMatrix, rows: slice) -> None:
    """Put the rounding residuals into some rows of an accumulator, inside their cells. Overwrites residual_RK.

    A weight outside of its code's cell was not rounded to it: the code was moved there on purpose (to make good for the
    errors of others, or by an earlier training), and starting at the boundary would send it back. It starts in the
    middle. Beyond the ends of the grid there is no boundary, and the accumulator's own limit of one level holds.
    """
    step = accumulator.step
    half = int(0.5 / step + 1e-6) * step if step else 0.5
    beyond_RK = residual_RK.abs() > 0.5 + _ROUNDED
    is_end_RK = torch.where(residual_RK > 0, codes_RK == top_code, codes_RK == 0)
    residual_RK.masked_fill_(beyond_RK & ~is_end_RK, 0.0)
    # Rounding must not push a residual over its boundary before any gradient came.
    highest_RK = torch.where(codes_RK == top_code, 1.0, half)
    lowest_RK = torch.where(codes_RK == 0, -1.0, -half)
    accumulator.write_(rows, residual_RK.clamp_(lowest_RK, highest_RK), None)


def _pick(signed_RK: Tensor, wants_RK: Tensor, now: Now, rows: slice) -> Wishes:
    index = wants_RK.view(-1).nonzero().squeeze(-1)
    return _with_room(index + rows.start * now.codes_NK.shape[1], signed_RK.view(-1)[index], now)


def _with_room(index: Tensor, signed: Tensor, now: Now) -> Wishes:
    """Of the codes at these flat positions, those that can go the way their sign says."""
    codes = now.codes_NK.reshape(-1)[index]
    has_room = torch.where(signed > 0, codes < now.top_code, codes > 0)
    kept = signed[has_room]
    return Wishes(index[has_room], kept.abs(), kept > 0, len(index) - len(kept))


def _joined(found: list[Wishes]) -> Wishes:
    indices, scores, ups, saturated = zip(*found, strict=True)
    return Wishes(torch.cat(indices), torch.cat(scores), torch.cat(ups), sum(saturated))
