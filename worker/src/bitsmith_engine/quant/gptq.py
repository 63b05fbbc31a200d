"""GPTQ on grids with integer zero points: every column's rounding error is made good by the columns still to come.

For one row w of a layer whose inputs have the Gram matrix H = X^T X (damped), the codes should minimise the error of
the layer's output, (w - w_hat) H (w - w_hat)^T. With H^-1 = U^T U, U upper triangular, column after column:

    e_k   = (w_k - w_hat_k) / U_kk
    w_j  <- w_j - e_k U_kj      for every j > k

after which the whole error is exactly sum_k e_k^2. So 1 / U_kk^2, not H_kk, is what an error in column k still costs
once the later columns have done what they can: it weights the search for a group's grid.

A layer may consist of several blocks of columns, each with a grid of its own (channel-mix): errors are carried across.
Groups stay consecutive within their block whatever the order of computation, so that no permutation is stored.

Shape letters: N output features, K input features, G groups per row, S features per group, D columns at a time.
Sources: Frantar et al. 2022, https://arxiv.org/abs/2210.17323, algorithm 1; Hassibi & Stork 1992 for the update.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import Affine, quantize, row_chunks
from bitsmith_engine.quant.scheme import Scheme

Order = Literal["natural", "activation"]
"""natural: columns as they lie, a group's grid found when its first column is reached, from the weights as they are
then. activation: the columns with the largest inputs first, all grids found beforehand."""

_COLUMNS_AT_A_TIME = 128  # updates of later columns are saved up over this many: matrix products instead of vectors
_DAMP_STEPS = 6  # each ten times the last: enough to make any finite Gram matrix positive definite
_RIDGE = 1e-6  # of the diagonal: groups whose outputs are nearly parallel share what they cannot tell apart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Columns start .. stop share a scheme; their groups are numbered from first_group on."""

    scheme: Scheme
    start: int
    stop: int
    first_group: int

    @property
    def num_groups(self) -> int:
        return (self.stop - self.start) // self.scheme.group_size

    @property
    def groups(self) -> slice:
        return slice(self.first_group, self.first_group + self.num_groups)

    def group_columns(self) -> Iterator[slice]:
        for start in range(self.start, self.stop, self.scheme.group_size):
            yield slice(start, start + self.scheme.group_size)


def gptq(
    w_NK: Tensor,
    gram_KK: Tensor,
    scheme: Scheme,
    *,
    clip_search: bool,
    damp: float = 0.01,
    order: Order = "natural",
    refit: bool = False,
) -> Affine:
    """Codes whose layer output, not whose weights, are near the float layer's.

    Args:
        w_NK: any float dtype; the arithmetic is float32, the factorization float64.
        gram_KK: X^T X of the layer's inputs. An input that is always zero has its weights rounded to nearest.
        damp: of the mean of the Gram matrix' diagonal, added to it; multiplied by ten until it can be factored.
        refit: fit the scales once more to the finished codes. Off: with 4096 tokens of calibration text the perplexity
            of a small model on other text rose by 2 %.

    Raises:
        BadModel: the Gram matrix is not finite.
    """
    (affine,) = gptq_blocks(
        w_NK, gram_KK, [scheme], [None], clip_search=clip_search, damp=damp, order=order, refit=refit
    )
    return affine


def gptq_blocks(
    w_NK: Tensor,
    gram_KK: Tensor,
    schemes: Sequence[Scheme],
    columns: Sequence[Tensor | None],
    *,
    clip_search: bool,
    damp: float = 0.01,
    order: Order = "natural",
    refit: bool = False,
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
    blocks = _lay_out(schemes, widths)

    w_NK = w_NK.float()[:, layout_K]
    damped_KK = _damped(gram_KK[layout_K][:, layout_K], damp)
    if order == "natural":
        parts = _round_in_order(w_NK, _inverse_factor(damped_KK), blocks, clip_search=clip_search)
    else:
        parts = _round_by_activation(w_NK, damped_KK, blocks, clip_search=clip_search)
    return refit_scales(w_NK, damped_KK, parts, schemes) if refit else parts


def refit_scales(w_NK: Tensor, gram_KK: Tensor, parts: Sequence[Affine], schemes: Sequence[Scheme]) -> list[Affine]:
    """The scales of least output error for the codes and zeros as they are: G linear equations for each row.

        A s = b,   A_gh = c_g H_gh c_h^T,   b_g = c_g (H w)_g,   c = code - zero

    A row whose error would not fall, or that asks for a scale that is not positive, keeps its scales.

    Args:
        w_NK, gram_KK: with the blocks' columns side by side, in the order of `parts`.
    """
    gram_KK = gram_KK.float()
    blocks = _lay_out(schemes, [part.codes_NK.shape[1] for part in parts])
    fitted = [
        _fit_rows(w_NK[rows].float(), gram_KK, [Affine(*(tensor[rows] for tensor in part)) for part in parts], blocks)
        for rows in row_chunks(w_NK)
    ]
    scale_NG = torch.cat(fitted)
    return [
        part._replace(scale_NG=scale_NG[:, block.groups].contiguous())
        for part, block in zip(parts, blocks, strict=True)
    ]


def output_error(difference_NK: Tensor, gram_KK: Tensor) -> Tensor:
    """|(w - w_hat) X|^2 of each row."""
    error_N: Tensor = ((difference_NK @ gram_KK) * difference_NK).sum(dim=1)
    return error_N


def _lay_out(schemes: Sequence[Scheme], widths: Sequence[int]) -> list[_Block]:
    blocks: list[_Block] = []
    start = first_group = 0
    for scheme, width in zip(schemes, widths, strict=True):
        blocks.append(_Block(scheme=scheme, start=start, stop=start + width, first_group=first_group))
        start += width
        first_group += width // scheme.group_size
    return blocks


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


def _round_in_order(w_NK: Tensor, upper_KK: Tensor, blocks: Sequence[_Block], *, clip_search: bool) -> list[Affine]:
    w_KN = w_NK.T.contiguous()  # a column of weights is contiguous, so that touching it is cheap
    importance_K = upper_KK.diagonal().square().reciprocal()
    parts = []
    for block in blocks:
        S, top_code = block.scheme.group_size, block.scheme.top_code
        codes_KN = torch.empty_like(w_KN[block.start : block.stop], dtype=torch.uint8)
        scales, zeros = [], []
        for chunk in _chunks(block):
            error_DN = torch.empty_like(w_KN[chunk])
            for k in range(chunk.start, chunk.stop):
                if (k - block.start) % S == 0:
                    grid = _grid(w_KN[k : k + S].T, importance_K[k : k + S], block.scheme, clip_search=clip_search)
                    scale_N, zero_N = grid.scale_NG[:, 0].float(), grid.zero_NG[:, 0].float()
                    scales.append(grid.scale_NG)
                    zeros.append(grid.zero_NG)
                codes_KN[k - block.start], error_DN[k - chunk.start] = _round_column(
                    w_KN, k, chunk.stop, scale_N, zero_N, top_code, upper_KK
                )
            w_KN[chunk.stop :].addmm_(upper_KK[chunk, chunk.stop :].T, error_DN, alpha=-1)
        parts.append(Affine(codes_KN.T.contiguous(), torch.cat(scales, dim=1), torch.cat(zeros, dim=1)))
    return parts


def _round_by_activation(w_NK: Tensor, gram_KK: Tensor, blocks: Sequence[_Block], *, clip_search: bool) -> list[Affine]:
    importance_K = gram_KK.diagonal().float()
    parts, sequences = [], []
    for block in blocks:
        here = slice(block.start, block.stop)
        parts.append(_grid(w_NK[:, here], importance_K[here], block.scheme, clip_search=clip_search))
        sequences.append(block.start + importance_K[here].argsort(descending=True, stable=True))
    sequence_K = torch.cat(sequences)

    upper_KK = _inverse_factor(gram_KK[sequence_K][:, sequence_K])
    w_KN = w_NK.T[sequence_K].contiguous()
    for block, part, sequence in zip(blocks, parts, sequences, strict=True):
        columns = (sequence - block.start).tolist()
        codes_KN = torch.empty_like(w_KN[block.start : block.stop], dtype=torch.uint8)
        scale_GN, zero_GN = part.scale_NG.T.float().contiguous(), part.zero_NG.T.float().contiguous()
        for chunk in _chunks(block):
            error_DN = torch.empty_like(w_KN[chunk])
            for k in range(chunk.start, chunk.stop):
                column = columns[k - block.start]
                group = column // block.scheme.group_size
                codes_KN[column], error_DN[k - chunk.start] = _round_column(
                    w_KN, k, chunk.stop, scale_GN[group], zero_GN[group], block.scheme.top_code, upper_KK
                )
            w_KN[chunk.stop :].addmm_(upper_KK[chunk, chunk.stop :].T, error_DN, alpha=-1)
        part.codes_NK.copy_(codes_KN.T)
    return parts


def _round_column(
    w_KN: Tensor, k: int, stop: int, scale_N: Tensor, zero_N: Tensor, top_code: int, upper_KK: Tensor
) -> tuple[Tensor, Tensor]:
    """Code and error of column k; the columns up to `stop` make good for it at once."""
    code_N = (w_KN[k] / scale_N).round_().add_(zero_N).clamp_(0, top_code)
    error_N = (w_KN[k] - (code_N - zero_N) * scale_N) / upper_KK[k, k]
    w_KN[k + 1 : stop].addr_(upper_KK[k, k + 1 : stop], error_N, alpha=-1)
    return code_N, error_N


def _chunks(block: _Block) -> Iterator[slice]:
    """Whole groups, so that a group's weights are up to date when its grid is found."""
    size = block.scheme.group_size
    step = max(1, _COLUMNS_AT_A_TIME // size) * size
    for start in range(block.start, block.stop, step):
        yield slice(start, min(start + step, block.stop))


def _grid(w_NK: Tensor, importance_K: Tensor, scheme: Scheme, *, clip_search: bool) -> Affine:
    # Divided by the largest: equal importances are exactly one, so that they change no bit of the result.
    return quantize(w_NK, scheme, clip_search=clip_search, importance_K=importance_K / importance_K.max())


def _fit_rows(w_RK: Tensor, gram_KK: Tensor, parts: Sequence[Affine], blocks: Sequence[_Block]) -> Tensor:
    scale_RG = torch.cat([part.scale_NG for part in parts], dim=1)
    levels_RK = torch.cat(
        [
            part.codes_NK.float() - part.zero_NG.float().repeat_interleave(block.scheme.group_size, dim=1)
            for part, block in zip(parts, blocks, strict=True)
        ],
        dim=1,
    )
    b_RG = _sum_groups((w_RK @ gram_KK) * levels_RK, blocks).double()
    a_RGG = torch.stack(
        [
            _sum_groups((levels_RK[:, here] @ gram_KK[here]) * levels_RK, blocks)
            for block in blocks
            for here in block.group_columns()
        ],
        dim=1,
    ).double()

    # A group whose levels are all zero has no equation; it keeps its scale.
    diagonal_RG = a_RGG.diagonal(dim1=1, dim2=2)
    is_empty_RG = diagonal_RG <= 0
    b_RG = torch.where(is_empty_RG, scale_RG.double(), b_RG)
    a_RGG = a_RGG + torch.diag_embed(is_empty_RG.double() + _RIDGE * diagonal_RG)
    factor_RGG, info_R = torch.linalg.cholesky_ex(a_RGG)
    fitted_RG = torch.cholesky_solve(b_RG.unsqueeze(-1), factor_RGG).squeeze(-1)

    limits = torch.finfo(torch.float16)
    is_usable_R = (info_R == 0) & ((fitted_RG >= limits.tiny) & (fitted_RG <= limits.max)).all(dim=1)
    fitted_RG = fitted_RG.nan_to_num().clamp(limits.tiny, limits.max).half()
    before_R, after_R = (
        output_error(w_RK - levels_RK * _spread(scales.float(), blocks), gram_KK) for scales in (scale_RG, fitted_RG)
    )
    return torch.where((is_usable_R & (after_R < before_R)).unsqueeze(-1), fitted_RG, scale_RG)


def _sum_groups(values_RK: Tensor, blocks: Sequence[_Block]) -> Tensor:
    return torch.cat(
        [
            values_RK[:, block.start : block.stop].reshape(len(values_RK), -1, block.scheme.group_size).sum(-1)
            for block in blocks
        ],
        dim=1,
    )


def _spread(values_RG: Tensor, blocks: Sequence[_Block]) -> Tensor:
    return torch.cat(
        [values_RG[:, block.groups].repeat_interleave(block.scheme.group_size, dim=1) for block in blocks], dim=1
    )
