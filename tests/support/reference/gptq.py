"""Error-compensated rounding as Optimal Brain Surgeon tells it: one weight, then the inverse of what is left."""

import torch
from torch import Tensor


def damped(gram_KK: Tensor, damp: float) -> Tensor:
    """float64, a fraction of the mean of the diagonal added to it."""
    gram_KK = gram_KK.double()
    return gram_KK + damp * gram_KK.diagonal().mean() * torch.eye(len(gram_KK), dtype=torch.float64)


def compensated_codes(w_K: Tensor, gram_KK: Tensor, scale_K: Tensor, zero_K: Tensor, top_code: int) -> list[int]:
    """The codes of one row, its columns rounded as they lie on grids that are given."""
    weights = w_K.double().clone()
    inverse_KK = torch.linalg.inv(gram_KK)
    codes = [0] * len(weights)
    for k in range(len(weights)):
        scale, zero = float(scale_K[k]), int(zero_K[k])
        codes[k] = min(top_code, max(0, round(float(weights[k]) / scale) + zero))
        error = float(weights[k]) - (codes[k] - zero) * scale
        column_K = inverse_KK[:, k].clone()
        weights -= error / column_K[k] * column_K
        # Eliminating k leaves the inverse of the Gram matrix of the other columns.
        inverse_KK = inverse_KK - torch.outer(column_K, column_K) / column_K[k]
        inverse_KK[k, :] = inverse_KK[:, k] = 0
    return codes
