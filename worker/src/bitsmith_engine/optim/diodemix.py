"""DiodeMix: trains the scales and the codes of quantized weights together.

For a weight w = s (q - z) with the gradient g of a whole batch with respect to w:

    scales   log s  <-  log s - rate_s * AdamW(sum over the group of g * w)        a relative step
    codes    a      <-  a - rate_w / s * g / sqrt(v)                               the float fine-tune's step, in levels
             flip   q  <-  q + sign(a), a <- a - sign(a)   where |a| > 1/2 and q has room, largest |a| first

a starts at the rounding residual w_float / s + z - q, so a weight that lay near the boundary of its cell moves first; v
is the factored second moment of the batch gradient. The number of flips is bounded over the whole run: a budget B
(fraction of all codes) is released in step with the learning rate, and what a step leaves is there for the next.

The update happens inside backward, layer by layer: no layer's dense gradient outlives its own backward. Only when a
batch is split into micro-batches is their sum kept, in float32, because v is that of the sum.

Shape letters: N output features, K input features, G groups per row, S features per group, R rows at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from bitsmith_core.spec import DiodeMix as Settings
from torch import Tensor

from bitsmith_engine.optim import rules
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.quant.affine import row_chunks
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.runtime import generator

MOMENT_BETA = 0.99  # of the factored second moment; runs are short, so 0.999 would hardly leave the first batches

ReadWeight = Callable[[str], Tensor]
"""The float weight (N, K) that a quantized layer came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    flips: int  # of this step
    total_flips: int
    candidates: int  # codes that wanted to move and had room
    saturated: int  # codes that wanted to move out of their range


@dataclass(slots=True, kw_only=True)
class _State:
    parameter: QuantParameter
    log_scale_NG: Tensor  # float32 master
    first_NG: Tensor
    second_NG: Tensor
    moment: rules.Moment
    accumulator_NK: Tensor | None  # int8 in 1/127 levels or float32 in levels; None if codes stay
    gradient_NK: Tensor | None = None  # sum over micro-batches, while there are several
    received: int = 0


class DiodeMix:
    """A GradientSink. Per step: start, then backward passes, then finish. Deterministic given the gradients."""

    def __init__(
        self,
        parameters: Mapping[str, QuantParameter],
        settings: Settings,
        schedule: Schedule,
        *,
        seed: int,
        float_weight: ReadWeight,
    ) -> None:
        self._settings = settings
        self._schedule = schedule
        self._random = generator(seed)
        self._step = 0
        self._micro_batches = 1
        self.total_codes = sum(parameter.codes_NK.numel() for parameter in parameters.values())
        self.total_flips = 0
        self._states = {name: self._new_state(parameter, float_weight) for name, parameter in parameters.items()}

    def rate_factor(self, step: int) -> float:
        """Of the peak learning rates, at this step."""
        return self._schedule.factor(step)

    def start(self, step: int, micro_batches: int = 1) -> None:
        """Begin the step (counted from 0) whose gradient arrives in this many backward passes."""
        self._step, self._micro_batches = step, micro_batches
        for state in self._states.values():
            state.received = 0

    def receive(self, name: str, grad_NK: Tensor) -> None:
        state = self._states[name]
        state.received += 1
        if self._micro_batches > 1:
            if state.gradient_NK is None:
                state.gradient_NK = grad_NK
            else:
                state.gradient_NK += grad_NK
            if state.received < self._micro_batches:
                return
            grad_NK, state.gradient_NK = state.gradient_NK, None
        self._update(state, grad_NK)

    def finish(self) -> StepReport:
        """Move the codes that earned it."""
        if self._settings.mode == "scales_only":
            return StepReport(flips=0, total_flips=0, candidates=0, saturated=0)
        found = [_candidates(state) for state in self._states.values()]
        scores = torch.cat([score for _, score, _ in found])
        # Scores of int8 accumulators are often equal; chance decides between equals, not the order of the layers.
        scores += torch.rand(len(scores), generator=self._random).to(scores.device) / (2 * rules.ACCUMULATOR_STEPS)
        chosen = rules.best_first(scores, self._allowed_flips())

        start = 0
        for state, (index, _, _) in zip(self._states.values(), found, strict=True):
            mine = chosen[(chosen >= start) & (chosen < start + len(index))] - start
            _flip(state, index[mine])
            start += len(index)
        self.total_flips += len(chosen)
        return StepReport(
            flips=len(chosen),
            total_flips=self.total_flips,
            candidates=len(scores),
            saturated=sum(saturated for _, _, saturated in found),
        )

    def _allowed_flips(self) -> int:
        released = self._settings.flip_budget * self.total_codes * self._schedule.share_until(self._step)
        return max(0, int(released) - self.total_flips)

    def _new_state(self, parameter: QuantParameter, float_weight: ReadWeight) -> _State:
        N, K = parameter.shape
        log_scale_NG = parameter.scale_NG.float().log()
        device = parameter.device
        accumulator_NK = None
        if self._settings.mode == "residual":
            accumulator_NK = _start_accumulator(parameter, float_weight(parameter.name), self._settings.accumulator)
        return _State(
            parameter=parameter,
            log_scale_NG=log_scale_NG,
            first_NG=torch.zeros_like(log_scale_NG),
            second_NG=torch.zeros_like(log_scale_NG),
            moment=rules.Moment(torch.zeros(N, device=device), torch.zeros(K, device=device)),
            accumulator_NK=accumulator_NK,
        )

    def _update(self, state: _State, grad_NK: Tensor) -> None:
        parameter = state.parameter
        factor = self._schedule.factor(self._step)
        log_scale_grad_NG = torch.empty_like(state.log_scale_NG)
        row_mean_N = torch.empty_like(state.moment.row_N)
        column_mean_K = torch.zeros_like(state.moment.column_K)
        for rows in row_chunks(parameter.codes_NK):
            grad_RK = grad_NK[rows]
            weighted_RK = parameter.dequantize_rows(rows).mul_(grad_RK)
            log_scale_grad_NG[rows] = parameter.grouped(weighted_RK).sum(-1)
            squared_RK = grad_RK.square()
            row_mean_N[rows] = squared_RK.mean(1)
            column_mean_K += squared_RK.sum(0)
        rules.observe_(state.moment, row_mean_N, column_mean_K / parameter.shape[0], beta=MOMENT_BETA)

        if state.accumulator_NK is not None:
            self._accumulate(state, state.accumulator_NK, grad_NK, factor * self._settings.code_learning_rate)
        rules.adamw_(
            state.log_scale_NG,
            state.first_NG,
            state.second_NG,
            log_scale_grad_NG,
            step=self._step + 1,
            rate=factor * self._settings.scale_learning_rate,
        )
        parameter.set_scales_(state.log_scale_NG.exp())

    def _accumulate(self, state: _State, accumulator_NK: Tensor, grad_NK: Tensor, rate: float) -> None:
        parameter = state.parameter
        N, K = parameter.shape
        roots = rules.inverse_roots(state.moment, step=self._step + 1, beta=MOMENT_BETA)
        dither_N = torch.rand(N, generator=self._random).to(parameter.device)
        dither_K = torch.rand(K, generator=self._random).to(parameter.device)
        for rows in row_chunks(accumulator_NK):
            # In place: the gradient becomes the change in levels.
            change_RGS = parameter.grouped(grad_NK[rows].mul_(roots.column_K))
            per_level_RG = roots.row_N[rows].unsqueeze(-1) * -rate / parameter.scale_NG[rows].float()
            change_RK = change_RGS.mul_(per_level_RG.unsqueeze(-1)).view(-1, K)
            if accumulator_NK.dtype == torch.int8:
                rules.accumulate_int8_(accumulator_NK[rows], change_RK, dither_N[rows].unsqueeze(-1), dither_K)
            else:
                rules.accumulate_float_(accumulator_NK[rows], change_RK)


def _half(accumulator: Tensor) -> float:
    """The boundary of a code's cell, in the accumulator's units."""
    return rules.ACCUMULATOR_STEPS // 2 if accumulator.dtype == torch.int8 else 0.5


def _start_accumulator(parameter: QuantParameter, w_NK: Tensor, kind: str) -> Tensor:
    """The rounding residual: within half a level, except for weights beyond the grid's ends (at most one level)."""
    dtype = torch.int8 if kind == "int8" else torch.float32
    accumulator_NK = torch.empty(parameter.shape, dtype=dtype, device=parameter.device)
    half = _half(accumulator_NK)
    unit = rules.ACCUMULATOR_STEPS if dtype == torch.int8 else 1.0
    for rows in row_chunks(parameter.codes_NK):
        residual_RK = parameter.residual_rows(w_NK[rows].to(parameter.device), rows).mul_(unit)
        if dtype == torch.int8:
            residual_RK.round_()
        # Half a level is the boundary itself; rounding must not push a residual over it before any gradient came.
        codes_RK = parameter.codes_NK[rows]
        highest_RK = torch.where(codes_RK == parameter.scheme.top_code, unit, half)
        lowest_RK = torch.where(codes_RK == 0, -unit, -half)
        accumulator_NK[rows] = residual_RK.clamp_(lowest_RK, highest_RK).to(dtype)
    return accumulator_NK


def _candidates(state: _State) -> tuple[Tensor, Tensor, int]:
    """(flat positions that may flip, |a| in levels, how many wanted to but have no room)."""
    accumulator_NK = state.accumulator_NK
    assert accumulator_NK is not None
    half = _half(accumulator_NK)
    wants = (accumulator_NK.view(-1).abs() > half).nonzero().squeeze(-1)
    accumulated = accumulator_NK.view(-1)[wants].float()
    codes = state.parameter.codes_NK.view(-1)[wants]
    has_room = torch.where(accumulated > 0, codes < state.parameter.scheme.top_code, codes > 0)
    unit = rules.ACCUMULATOR_STEPS if accumulator_NK.dtype == torch.int8 else 1.0
    return wants[has_room], accumulated[has_room].abs() / unit, len(wants) - int(has_room.sum())


def _flip(state: _State, index: Tensor) -> None:
    assert state.accumulator_NK is not None
    flat = state.accumulator_NK.view(-1)
    up = flat[index] > 0
    state.parameter.step_codes_(index, up)
    unit = rules.ACCUMULATOR_STEPS if flat.dtype == torch.int8 else 1.0
    moved = flat[index].float() - torch.where(up, unit, -unit)
    flat[index] = moved.to(flat.dtype)
