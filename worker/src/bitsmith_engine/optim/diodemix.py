"""DiodeMix: training a quantized model's scales continuously and its codes by whole levels, each move earned.

With g the gradient of the loss by a dequantized weight w = s (q - z), added up over a step's micro-batches:

    scales   log s  <-  log s - rate_s * AdamW(sum over the group of g * w)        a relative step
    codes    by one of the rules of bitsmith_engine.optim.codes; by default
             a      <-  a - rate_w / s * g / sqrt(v)                               the float fine-tune's step, in levels
             flip   q  <-  q + sign(a), a <- a - sign(a)   where |a| > 1/2 and q has room, largest |a| first

a starts at the rounding residual w_float / s + z - q, so a weight that lay near the boundary of its cell moves first; v
is the factored second moment of the batch gradient up to the step before (so the first step only measures). The number
of flips is bounded over the whole run: a budget B (fraction of all codes) is released in step with the learning rate,
and what a step leaves is there for the next.

Everything the gradient goes into is linear in it: scale gradients, accumulator or momentum, and the random sketches
that the second moment comes from. So the state is the accumulator of micro-batches, the update happens inside backward,
layer by layer, and no layer's dense gradient outlives its own backward, however many micro-batches a step has.

Data parallel: each rank owns some rows of every layer, has state for those only, and gives the others its codes
(packed) and scales after each step. All decisions depend on all-reduced numbers, so the ranks stay equal bit for bit.

Shape letters: N output features, K input features, G groups per row, R rows of this rank, P probes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from bitsmith_core.spec import DiodeMix as Settings
from torch import Tensor

from bitsmith_engine.optim import rules
from bitsmith_engine.optim.codes import (
    AdamRoundToNearest,
    Average,
    CodeRule,
    ErrorIntoMomentum,
    Now,
    Rank,
    Residual,
    StochasticRounding,
    Wishes,
    start_at,
)
from bitsmith_engine.optim.lowbit import LowBitMatrix, draw_dither
from bitsmith_engine.optim.momentum import DenseMomentum, LowRankMomentum, Momentum
from bitsmith_engine.quant.affine import row_chunks
from bitsmith_engine.quant.pack import pack, unpack
from bitsmith_engine.quant.parameter import QuantParameter, TokenSample
from bitsmith_engine.runtime import Ranks, Single, generator

MOMENT_BETA = 0.99  # of the factored second moment; runs are short, so 0.999 would hardly leave the first batches
PROBES = 8

_MISTRUST = 0.5  # what is left of the code rate and of the unspent budget after flips had to be taken back
_STEPS_PER_SEED = 1 << 31
_SCATTER = 40503  # 65536 divided by the golden ratio: neighbours land far apart (Knuth, section 6.4)

ReadWeight = Callable[[str], Tensor]
"""The float weight (N, K) that a quantized parameter came from."""


class Plan(Protocol):
    """What a step gets of the peak rates and of the flip budget."""

    def factor(self, step: int) -> float: ...

    def share_until(self, step: int) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    flips: int  # of this step
    total_flips: int  # of the run, without those taken back
    candidates: int  # codes that wanted to move and had room
    saturated: int  # codes that wanted to move out of their range


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Flips since the last review, judged on a batch that was not trained on."""

    gain: float  # loss without them minus loss with them, nats per token
    flips: int
    taken_back: int
    trust: float  # factor on the code rate from now on


@dataclass(slots=True, kw_only=True)
class _State:
    parameter: QuantParameter
    own: slice  # rows of this rank
    log_scale_RG: Tensor  # float32 master
    first_RG: Tensor
    second_RG: Tensor
    gradient_RG: Tensor  # of log_scale, so far in this step
    row_sketch_PR: Tensor
    column_sketch_PK: Tensor
    moment: rules.Moment
    rule: CodeRule | None  # None if codes stay
    roots: rules.Moment | None = None  # 1 / sqrt(second moment) in factors, until the moment changes
    received: int = 0
    recent: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (index, up) of flips since the last review


class DiodeMix:
    """A GradientSink. Per step: start, then backward passes, then finish. Deterministic given the gradients."""

    def __init__(
        self,
        parameters: Mapping[str, QuantParameter],
        settings: Settings,
        schedule: Plan,
        *,
        seed: int,
        float_weight: ReadWeight | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Args: float_weight: what accumulators start from; needed by the mode residual alone."""
        self._settings = settings
        self._schedule = schedule
        self._ranks = ranks or Single()
        self.rate_scale = 1.0  # of all learning rates; halved by whoever takes a diverged run back
        self._seed = seed
        self._random = generator(seed)
        self._step = 0
        self._observed = 0  # steps that the second moments have seen
        self._trust = 1.0
        self._forfeited = 0  # flips of the budget that mistrust has taken away
        self.total_codes = sum(parameter.codes_NK.numel() for parameter in parameters.values())
        self.total_flips = 0
        self._states = {name: self._new_state(parameter, float_weight) for name, parameter in parameters.items()}
        self._signs: dict[int, Tensor] = {}

    def rate_factor(self, step: int) -> float:
        """Of the peak learning rates, at this step."""
        return self.rate_scale * self._schedule.factor(step)

    def start(self, step: int) -> None:
        """Begin the step (counted from 0), whose gradient arrives in any number of backward passes."""
        self._step = step
        self._draw_signs()
        for state in self._states.values():
            state.received = 0
            for total in (state.gradient_RG, state.row_sketch_PR, state.column_sketch_PK):
                total.zero_()

    def choose_tokens(self, importance: Callable[[], Tensor]) -> TokenSample | None:
        share = self._settings.gradient_tokens
        if share >= 1:
            return None
        importance_T = importance()
        offset = float(torch.rand((), generator=self._random))
        return rules.sample_tokens(importance_T, count=math.ceil(share * len(importance_T)), offset=offset)

    def receive(self, name: str, grad_NK: Tensor) -> None:
        state = self._states[name]
        self._ranks.sum_(grad_NK)
        grad_RK = grad_NK[state.own]
        self._add_linear_parts(state, grad_RK)
        if state.rule is not None and (self._observed or self._settings.momentum != "none"):
            state.rule.receive(grad_RK, self._now(state), is_first=state.received == 0)
        state.received += 1

    def finish(self) -> StepReport:
        """Move the scales, and the codes that earned it."""
        for state in self._states.values():
            self._observe(state)
            self._move_scales(state)
        self._observed += 1
        report = self._move_codes()
        if self._ranks.size > 1:
            for state in self._states.values():
                self._share(state)
        return report

    def review(self, loss: Callable[[], float]) -> Review:
        """Judge the flips since the last review by a loss on data not trained on, with them and without; keep or undo.

        Flips that cost are taken back, and the code rate and the unspent budget are halved.
        """
        count = sum(len(index) for state in self._states.values() for index, _ in state.recent)
        counts = torch.tensor([count])
        self._ranks.sum_(counts)
        total = int(counts)
        if total == 0:
            return Review(gain=0.0, flips=0, taken_back=0, trust=self._trust)
        with_flips = loss()
        self._undo_recent()
        without_flips = loss()
        gain = without_flips - with_flips
        if gain < 0:
            for state in self._states.values():
                for index, up in state.recent:
                    assert state.rule is not None
                    state.rule.taken_back(index, up)
                state.recent.clear()
            self.total_flips -= total
            self._trust *= _MISTRUST
            left = self._settings.flip_budget * self.total_codes - self.total_flips - self._forfeited
            self._forfeited += int(max(0.0, left) * (1 - _MISTRUST))
            return Review(gain=gain, flips=total, taken_back=total, trust=self._trust)
        self._redo_recent()
        for state in self._states.values():
            state.recent.clear()
        return Review(gain=gain, flips=total, taken_back=0, trust=self._trust)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a run continues from besides the parameters themselves, by flat name; tensors may be shared."""
        found = {
            "random": self._random.get_state(),
            "counters": torch.tensor([self._observed, self.total_flips, self._forfeited]),
            "trust": torch.tensor(self._trust, dtype=torch.float64),
        }
        for name, state in self._states.items():
            own = {
                "log_scale": state.log_scale_RG,
                "first": state.first_RG,
                "second": state.second_RG,
                "row": state.moment.row_N,
                "column": state.moment.column_K,
            }
            if state.recent:
                own["recent.index"] = torch.cat([index for index, _ in state.recent])
                own["recent.up"] = torch.cat([up for _, up in state.recent])
            if state.rule is not None:
                own |= state.rule.state()
            found |= {f"{name}:{key}": tensor for key, tensor in own.items()}
        return found

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self._random.set_state(saved["random"])
        self._observed, self.total_flips, self._forfeited = (int(value) for value in saved["counters"])
        self._trust = float(saved["trust"])
        for state in self._states.values():
            state.recent.clear()
        for key, tensor in self.state_dict().items():
            if ":" in key:
                tensor.copy_(saved[key])
        for state in self._states.values():
            state.roots = None
        for name, state in self._states.items():
            if f"{name}:recent.index" in saved:
                device = state.parameter.device
                state.recent = [(saved[f"{name}:recent.index"].to(device), saved[f"{name}:recent.up"].to(device))]

    def _new_state(self, parameter: QuantParameter, float_weight: ReadWeight | None) -> _State:
        N, K = parameter.shape
        device = parameter.device
        bounds = [N * rank // self._ranks.size for rank in (self._ranks.rank, self._ranks.rank + 1)]
        own = slice(*bounds)
        R = own.stop - own.start
        log_scale_RG = parameter.scale_NG[own].float().log()
        return _State(
            parameter=parameter,
            own=own,
            log_scale_RG=log_scale_RG,
            first_RG=torch.zeros_like(log_scale_RG),
            second_RG=torch.zeros_like(log_scale_RG),
            gradient_RG=torch.zeros_like(log_scale_RG),
            row_sketch_PR=torch.zeros(PROBES, R, device=device),
            column_sketch_PK=torch.zeros(PROBES, K, device=device),
            moment=rules.Moment(torch.zeros(R, device=device), torch.zeros(K, device=device)),
            rule=self._new_rule(parameter, own, float_weight),
        )

    def _new_rule(self, parameter: QuantParameter, own: slice, float_weight: ReadWeight | None) -> CodeRule | None:
        settings = self._settings
        if settings.mode == "scales_only":
            return None
        R, K, device = own.stop - own.start, parameter.shape[1], parameter.device
        average = None
        if settings.momentum != "none":
            momentum: Momentum = (
                LowRankMomentum(R, K, device, self._random)
                if settings.momentum == "low_rank"
                else DenseMomentum(R, K, settings.momentum, device)
            )
            average = Average(momentum, settings.momentum_beta, settings.gate_sigma)
        if settings.mode == "residual":
            accumulator = LowBitMatrix(R, K, settings.accumulator, device, within=1.0)
            assert float_weight is not None, "residuals are distances from the float weights; give float_weight"
            w_RK = float_weight(parameter.name)[own]
            for rows in row_chunks(w_RK):
                whole = slice(own.start + rows.start, own.start + rows.stop)
                residual_RK = parameter.residual_rows(w_RK[rows].to(device), whole)
                start_at(residual_RK, parameter.codes_NK[whole], parameter.scheme.top_code, accumulator, rows)
            return Residual(accumulator, average)
        assert average is not None, "the spec refuses these modes without a momentum"
        match settings.mode:
            case "rank":
                return Rank(average)
            case "sr":
                return StochasticRounding(average, self._random)
            case "eco":
                return ErrorIntoMomentum(average)
            case "adam_rtn":
                return AdamRoundToNearest(average)

    def _draw_signs(self) -> None:
        """New probes each step: (P, N or K) of +1 and -1, shared by all layers of a size.

        From the step's number, not from the run's generator, which draws as often as there are micro-batches.
        """
        self._signs = {}
        random = generator(self._seed * _STEPS_PER_SEED + self._step)
        for state in self._states.values():
            for size in state.parameter.shape:
                if size not in self._signs:
                    bits = torch.randint(0, 2, (PROBES, size), generator=random, dtype=torch.int8)
                    self._signs[size] = (2.0 * bits - 1.0).to(state.parameter.device)

    def _add_linear_parts(self, state: _State, grad_RK: Tensor) -> None:
        parameter = state.parameter
        N, K = parameter.shape
        row_signs_PR, column_signs_PK = self._signs[N][:, state.own], self._signs[K]
        for rows in row_chunks(grad_RK):
            part_RK = grad_RK[rows]
            whole = slice(state.own.start + rows.start, state.own.start + rows.stop)
            state.row_sketch_PR[:, rows] += column_signs_PK @ part_RK.T
            state.column_sketch_PK.addmm_(row_signs_PR[:, rows], part_RK)
            state.gradient_RG[rows] += parameter.log_scale_gradient_rows(part_RK, whole)

    def _observe(self, state: _State) -> None:
        N, K = state.parameter.shape
        self._ranks.sum_(state.column_sketch_PK)
        row_mean_R = rules.mean_squares(state.row_sketch_PR, over=K)
        column_mean_K = rules.mean_squares(state.column_sketch_PK, over=N)
        rules.observe_(state.moment, row_mean_R, column_mean_K, beta=MOMENT_BETA)
        state.roots = None

    def _move_scales(self, state: _State) -> None:
        rules.adamw_(
            state.log_scale_RG,
            state.first_RG,
            state.second_RG,
            state.gradient_RG,
            step=self._step + 1,
            rate=self.rate_factor(self._step) * self._settings.scale_learning_rate,
        )
        state.parameter.set_scales_(state.log_scale_RG.exp(), state.own)

    def _now(self, state: _State) -> Now:
        parameter = state.parameter
        if state.roots is None:
            total = state.moment.row_N.sum()
            self._ranks.sum_(total)
            state.roots = rules.inverse_roots(
                state.moment, row_mean=total / parameter.shape[0], step=max(1, self._observed), beta=MOMENT_BETA
            )
        dither = draw_dither(*parameter.shape, self._random, parameter.device)
        rate = self.rate_factor(self._step) * self._settings.code_learning_rate * self._trust
        return Now(
            codes_NK=parameter.codes_NK[state.own],
            top_code=parameter.scheme.top_code,
            row_root_N=state.roots.row_N,
            column_root_K=state.roots.column_K,
            levels_NG=rate / parameter.scale_NG[state.own].float(),
            dither=dither._replace(row_N=dither.row_N[state.own]),
        )

    def _move_codes(self) -> StepReport:
        if self._settings.mode == "scales_only":
            return StepReport(flips=0, total_flips=0, candidates=0, saturated=0)
        wishes = [self._wishes(state) for state in self._states.values()]
        scores = torch.cat([_with_ties_broken(*pair) for pair in zip(self._states.values(), wishes, strict=True)])
        everyone = self._ranks.gather_ragged(scores)
        all_scores = torch.cat(everyone)
        is_budgeted = all(state.rule is None or state.rule.is_budgeted for state in self._states.values())
        chosen = rules.best_first(all_scores, self._allowed_flips() if is_budgeted else len(all_scores))

        start = sum(len(theirs) for theirs in everyone[: self._ranks.rank])
        for state, wish in zip(self._states.values(), wishes, strict=True):
            mine = chosen[(chosen >= start) & (chosen < start + len(wish.index_C))] - start
            self._flip(state, wish.index_C[mine], wish.up_C[mine])
            start += len(wish.index_C)
        self.total_flips += len(chosen)
        saturated = torch.tensor([sum(wish.saturated for wish in wishes)])
        self._ranks.sum_(saturated)
        return StepReport(
            flips=len(chosen),
            total_flips=self.total_flips,
            candidates=len(all_scores),
            saturated=int(saturated),
        )

    def _wishes(self, state: _State) -> Wishes:
        assert state.rule is not None
        return state.rule.wishes(self._now(state))

    def _allowed_flips(self) -> int:
        released = self._settings.flip_budget * self.total_codes * self._schedule.share_until(self._step)
        return max(0, int(released) - self._forfeited - self.total_flips)

    def _flip(self, state: _State, index: Tensor, up: Tensor) -> None:
        if len(index) == 0:
            return
        assert state.rule is not None
        state.parameter.step_codes_(index + state.own.start * state.parameter.shape[1], up)
        state.rule.moved(index, up)
        if self._settings.trust_every is not None:
            state.recent.append((index, up))

    def _undo_recent(self) -> None:
        for state in self._states.values():
            offset = state.own.start * state.parameter.shape[1]
            for index, up in reversed(state.recent):
                state.parameter.step_codes_(index + offset, ~up)
            if self._ranks.size > 1:
                self._share(state)

    def _redo_recent(self) -> None:
        for state in self._states.values():
            offset = state.own.start * state.parameter.shape[1]
            for index, up in state.recent:
                state.parameter.step_codes_(index + offset, up)
            if self._ranks.size > 1:
                self._share(state)

    def _share(self, state: _State) -> None:
        """Everybody's rows to everybody: packed codes and scales."""
        parameter = state.parameter
        N, K = parameter.shape
        bits = parameter.scheme.bits
        codes = self._ranks.gather_ragged(pack(parameter.codes_NK[state.own], bits).view(-1))
        scales = self._ranks.gather_ragged(parameter.scale_NG[state.own].reshape(-1))
        for rank, (their_codes, their_scales) in enumerate(zip(codes, scales, strict=True)):
            rows = slice(N * rank // self._ranks.size, N * (rank + 1) // self._ranks.size)
            parameter.codes_NK[rows] = unpack(their_codes.view(rows.stop - rows.start, -1), bits, K)
            parameter.scale_NG[rows] = their_scales.view(rows.stop - rows.start, -1)


def _with_ties_broken(state: _State, wish: Wishes) -> Tensor:
    """Scores of low-bit accumulators are often equal: which of them goes first must not be the order of the layers.

    A number that looks random but depends on the place in the layer alone, so that all ranks and runs decide alike.
    """
    place_C = wish.index_C + state.own.start * state.parameter.shape[1]
    scattered_C: Tensor = (place_C * _SCATTER & 0xFFFF).float() / (0xFFFF * 256)
    return wish.score_C + scattered_C
