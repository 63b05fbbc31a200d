"""Update rules as functions on tensors; those whose name ends in _ change their first arguments in place.

Shape letters: N output features, K input features, R rows at a time, G groups per row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ACCUMULATOR_STEPS = 127
"""An int8 accumulator counts in 1/127 of a level, so it reaches one level up and one down."""

_TINY = 1e-38  # below every squared gradient that matters, and still a normal float32


class Moment(NamedTuple):
    """Running means of the squared gradient over each row and each column: N + K numbers instead of N * K."""

    row_N: Tensor
    column_K: Tensor


def adamw_(
    value: Tensor, first: Tensor, second: Tensor, grad: Tensor, *, step: int, rate: float, eps: float = 1e-10
) -> None:
    """AdamW without decay. step counts from 1.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2.
    """
    beta1, beta2 = 0.9, 0.999
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    corrected = (second / (1 - beta2**step)).sqrt_().add_(eps)
    value.addcdiv_(first, corrected, value=-rate / (1 - beta1**step))


def observe_(moment: Moment, row_mean_N: Tensor, column_mean_K: Tensor, *, beta: float) -> None:
    """Add one step's mean squares of the gradient."""
    moment.row_N.lerp_(row_mean_N, 1 - beta)
    moment.column_K.lerp_(column_mean_K, 1 - beta)


def inverse_roots(moment: Moment, *, step: int, beta: float) -> Moment:
    """(row, column) factors whose product is 1 / sqrt(second moment), corrected for the start at zero.

    The second moment of element (n, k) is taken as row_n * column_k / mean(row). step counts from 1.
    Source: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4 (there without bias correction).
    """
    correction = 1 - beta**step
    row_N = (moment.row_N / correction).clamp_(min=_TINY)
    column_K = (moment.column_K / correction).clamp_(min=_TINY)
    return Moment((row_N / row_N.mean()).rsqrt_(), column_K.rsqrt_())


def accumulate_float_(accumulator_RK: Tensor, change_RK: Tensor) -> None:
    """Add a change in levels; the accumulator stays within one level of its code."""
    accumulator_RK.add_(change_RK).clamp_(-1.0, 1.0)


def accumulate_int8_(accumulator_RK: Tensor, change_RK: Tensor, dither_R1: Tensor, dither_K: Tensor) -> None:
    """Add a change in levels to an accumulator in 1/127 levels, rounding at random so that the mean is exact.

    The random number of an element is the fraction of the sum of its row's and its column's, each uniform in 0 .. 1:
    uniform too, independent for any two elements, and N + K draws instead of N * K. Overwrites change_RK.
    """
    dither_RK = (dither_R1 + dither_K).frac_()
    change_RK.mul_(ACCUMULATOR_STEPS).add_(accumulator_RK).add_(dither_RK).floor_()
    accumulator_RK.copy_(change_RK.clamp_(-ACCUMULATOR_STEPS, ACCUMULATOR_STEPS))


def best_first(score: Tensor, allowed: int) -> Tensor:
    """Positions of the `allowed` largest scores, or of all when there are fewer; in ascending order."""
    if len(score) <= allowed:
        return torch.arange(len(score), device=score.device)
    return score.topk(allowed, sorted=False).indices.sort().values
