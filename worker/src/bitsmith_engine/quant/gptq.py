"""GPTQ on grids with integer zero points: every column's rounding error is made good by the columns still to come.

For one row w of a layer whose inputs have the Gram matrix H = X^T X (damped), the codes should minimise the error of
the layer's output, (w - w_hat) H (w - w_hat)^T. With H^-1 = U^T U, U upper triangular, column after column:

    e_k   = (w_k - w_hat_k) / U_kk
    w_j  <- w_j - e_k U_kj      for every j > k

after which the whole error is exactly sum_k e_k^2. So 1 / U_kk^2, not H_kk, is what an error in column k still costs
once the later columns have done what they can: it weights the search for a group's grid.

A layer may consist of several blocks of columns, each with a grid of its own (channel-mix): errors are carried across.
Columns go as they lie, and a group's grid is found when its first column is reached, from the weights as they are then.

Shape letters: N output features, K input features, S features per group, D columns at a time.
Sources: Frantar et al. 2022, https://arxiv.org/abs/2210.17323, algorithm 1; Hassibi & Stork 1992 for the update.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize
from bitsmith_engine.quant.scheme import Scheme

_COLUMNS_AT_A_TIME = 128  # updates of later columns are saved up over this many: matrix products instead of vectors
_DAMP_STEPS = 6  # each ten times the last: enough to make any finite Gram matrix positive definite


def gptq(
    w_NK: Tensor,
    gram_KK: Tensor,
    scheme: Scheme,
    *,
    clip_search: bool,
    damp: float = 0.01,
) -> Affine:
    """Codes whose layer output, not whose weights, are near the float layer's.

    Args:
        w_NK: any float dtype; the arithmetic is float32, the factorization float64.
        gram_KK: X^T X of the layer's inputs. An input that is always zero has its weights rounded to nearest.
        damp: of the mean of the Gram matrix' diagonal, added to it; multiplied by ten until it can be factored.

    Raises:
        BadModel: the Gram matrix is not finite.
    """
    (affine,) = gptq_blocks(w_NK, gram_KK, [scheme], [None], clip_search=clip_search, damp=damp)
    return affine


def gptq_blocks(
    w_NK: Tensor,
    gram_KK: Tensor,
    schemes: Sequence[Scheme],
    columns: Sequence[Tensor | None],
    *,
    clip_search: bool,
    damp: float = 0.01,
) -> list[Affine]:
    """The same for a layer in blocks of columns: one result for each, its columns in the block's own order.

    Args:
        schemes: of each block; its group_size divides the block's columns.
        columns: int64 input features of each block, together all of them once; None (the only block) is all.
    """
    chosen = [column_K for column_K in columns if column_K is not None]
    layout_K = torch.cat(chosen) if chosen else torch.arange(w_NK.shape[1])
    layout_K = layout_K.to(w_NK.device)
    widths = [w_NK.shape[1] if column_K is None else len(column_K) for column_K in columns]
    upper_KK = _inverse_factor(_damped(gram_KK[layout_K][:, layout_K], damp))
    return _round(w_NK.float()[:, layout_K], upper_KK, schemes, widths, clip_search=clip_search)


def output_error(difference_NK: Tensor, gram_KK: Tensor) -> Tensor:
    """|(w - w_hat) X|^2 of each row."""
    error_N: Tensor = ((difference_NK @ gram_KK) * difference_NK).sum(dim=1)
    return error_N


def _damped(gram_KK: Tensor, damp: float) -> Tensor:
    """float64 and positive definite."""
    if not gram_KK.isfinite().all():
        raise BadModel(
            "a layer of the base has inputs on the calibration text that are infinite or not a number, so its rounding "
            "errors cannot be compensated; set quantization.initial to rtn or hqq, or use another base"
        )
    # Not float32: outlier channels put the condition number at a million.
    gram_KK = gram_KK.double().clone()
    diagonal_K = gram_KK.diagonal()
    is_dead_K = diagonal_K <= 0
    step = 1.0 if bool(is_dead_K.all()) else diagonal_K[~is_dead_K].mean().item()
    diagonal_K[is_dead_K] = step
    for power in range(_DAMP_STEPS):
        diagonal_K += damp * step * 10**power
        if int(torch.linalg.cholesky_ex(gram_KK).info) == 0:
            break
    return gram_KK


def _inverse_factor(gram_KK: Tensor) -> Tensor:
    """float32 U, upper triangular, with U^T U the inverse."""
    # The Cholesky factor of the matrix in reverse, reversed back, is an upper R with R R^T the matrix: U = R^-1.
    r_KK = torch.linalg.cholesky(gram_KK.flip(0, 1)).flip(0, 1)
    eye_KK = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    upper_KK: Tensor = torch.linalg.solve_triangular(r_KK, eye_KK, upper=True)
    return upper_KK.float()


def _round(
    w_NK: Tensor, upper_KK: Tensor, schemes: Sequence[Scheme], widths: Sequence[int], *, clip_search: bool
) -> list[Affine]:
    """The blocks lie side by side in w_NK."""
    w_KN = w_NK.T.contiguous()  # a column of weights is contiguous, so that touching it is cheap
    importance_K = upper_KK.diagonal().square().reciprocal()
    parts = []
    start = 0
    for scheme, width in zip(schemes, widths, strict=True):
        S = scheme.group_size
        codes_KN = torch.empty_like(w_KN[start : start + width], dtype=torch.uint8)
        scales, zeros = [], []
        for chunk in _chunks(start, start + width, S):
            error_DN = torch.empty_like(w_KN[chunk])
            for k in range(chunk.start, chunk.stop):
                if (k - start) % S == 0:
                    grid = _grid(w_KN[k : k + S].T, importance_K[k : k + S], scheme, clip_search=clip_search)
                    scale_N, zero_N = grid.scale_NG[:, 0].float(), grid.zero_NG[:, 0].float()
                    scales.append(grid.scale_NG)
                    zeros.append(grid.zero_NG)
                codes_KN[k - start], error_DN[k - chunk.start] = _round_column(
                    w_KN, k, chunk.stop, scale_N, zero_N, scheme.top_code, upper_KK
                )
            w_KN[chunk.stop :].addmm_(upper_KK[chunk, chunk.stop :].T, error_DN, alpha=-1)
        parts.append(Affine(codes_KN.T.contiguous(), torch.cat(scales, dim=1), torch.cat(zeros, dim=1)))
        start += width
    return parts


def _round_column(
    w_KN: Tensor, k: int, stop: int, scale_N: Tensor, zero_N: Tensor, top_code: int, upper_KK: Tensor
) -> tuple[Tensor, Tensor]:
    """Code and error of column k; the columns up to `stop` make good for it at once."""
    code_N = (w_KN[k] / scale_N).round_().add_(zero_N).clamp_(0, top_code)
    error_N = (w_KN[k] - (code_N - zero_N) * scale_N) / upper_KK[k, k]
    w_KN[k + 1 : stop].addr_(upper_KK[k, k + 1 : stop], error_N, alpha=-1)
    return code_N, error_N


def _chunks(start: int, stop: int, group_size: int) -> Iterator[slice]:
    """Whole groups, so that a group's weights are up to date when its grid is found."""
    step = max(1, _COLUMNS_AT_A_TIME // group_size) * group_size
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _grid(w_NK: Tensor, importance_K: Tensor, scheme: Scheme, *, clip_search: bool) -> Affine:
    # Divided by the largest: equal importances are exactly one, so that they change no bit of the result.
    return quantize(w_NK, scheme, clip_search=clip_search, importance_K=importance_K / importance_K.max())
