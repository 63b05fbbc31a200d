"""Pieces of update rules as functions on tensors; those whose name ends in _ change their first arguments in place.

Shape letters: N output features, K input features, P probes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bitsmith_engine.quant.parameter import TokenSample

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


def inverse_roots(moment: Moment, *, row_mean: Tensor, step: int, beta: float) -> Moment:
    """(row, column) factors whose product is 1 / sqrt(second moment), corrected for the start at zero.

    The second moment of element (n, k) is taken as row_n * column_k / mean(row). step counts from 1.

    Args:
        row_mean: of moment.row_N over all rows of the layer, of which these may be a part.

    Source: Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4 (there without bias correction).
    """
    correction = 1 - beta**step
    row_N = moment.row_N.clamp(min=_TINY) / row_mean.clamp(min=_TINY)
    column_K = (moment.column_K / correction).clamp_(min=_TINY)
    return Moment(row_N.rsqrt_(), column_K.rsqrt_())


def mean_squares(sketch: Tensor, *, over: int) -> Tensor:
    """Mean squares of the `over` numbers behind each entry, from their sums with random signs.

    A sum of `over` numbers with random signs has their sum of squares for its expected square; the mean over P probes
    has a relative standard error of sqrt(2 / P). Sketches of micro-batches add up to that of their batch, which the
    squares themselves do not.

    Args:
        sketch: (P, ...).

    Source: Alon, Matias, Szegedy 1996, https://doi.org/10.1145/237814.237823.
    """
    return sketch.square().mean(0) / over


def sample_tokens(importance_T: Tensor, *, count: int, offset: float) -> TokenSample:
    """About `count` tokens, each with a probability proportional to its importance (at most 1), weighed by its inverse.

    Systematic sampling: one random offset in 0 .. 1 decides about all. A sum over the sample has the sum over all
    tokens for its mean, and the least variance for a given count. Source: Adelman et al. 2021,
    https://arxiv.org/abs/1805.08079; the certain part as in Liu et al. 2023, https://arxiv.org/abs/2305.15265.
    """
    chance_T = importance_T.double()
    chance_T = chance_T * (count / chance_T.sum().clamp(min=_TINY))
    for _ in range(4):  # what is cut off at 1 goes to the others
        is_certain_T = chance_T >= 1
        left = max(0, count - int(is_certain_T.sum()))
        rest = torch.where(is_certain_T, 0.0, chance_T)
        chance_T = torch.where(is_certain_T, 1.0, rest * (left / rest.sum().clamp(min=_TINY)))
    chance_T.clamp_(max=1.0)
    passed_T = (chance_T.cumsum(0) + offset).floor()
    before_T = torch.cat([passed_T.new_tensor([math.floor(offset)]), passed_T[:-1]])
    index_A = (passed_T > before_T).nonzero().squeeze(-1)
    return TokenSample(index_A, (1 / chance_T[index_A]).float())


def best_first(score: Tensor, allowed: int) -> Tensor:
    """Positions of the `allowed` largest scores, or of all when there are fewer; in ascending order."""
    if len(score) <= allowed:
        return torch.arange(len(score), device=score.device)
    return score.topk(allowed, sorted=False).indices.sort().values
