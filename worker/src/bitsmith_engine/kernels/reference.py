"""Plain torch: the specification of every kernel.

Shape letters: N output features, K input features, G groups per row, S features per group (K = G * S).
"""

import torch
from torch import Tensor


def dequantize(codes_NK: Tensor, scale_NG: Tensor, zero_NG: Tensor, dtype: torch.dtype) -> Tensor:
    """(code - zero) * scale in float32, then rounded once to dtype.

    With integer zero points float32 is exact: a difference of 8-bit codes has 8 bits and a float16 scale 11, so the
    product fits float32's 24. With float zero points the difference may round as well.
    """
    N, K = codes_NK.shape
    w_NGS = codes_NK.to(torch.float32).view(N, scale_NG.shape[1], -1)
    w_NGS.sub_(zero_NG.to(torch.float32).unsqueeze(-1)).mul_(scale_NG.to(torch.float32).unsqueeze(-1))
    return w_NGS.view(N, K).to(dtype)


def log_scale_gradient(codes_NK: Tensor, scale_NG: Tensor, zero_NG: Tensor, grad_NK: Tensor) -> Tensor:
    """Sum over each group of grad * w, float32 (N, G): what the logarithm of its scale gets.

    As scale * (sum of grad * code - zero * sum of grad), so that no weight is written down.
    """
    N, G = scale_NG.shape
    by_code_NG = codes_NK.to(torch.float32).mul_(grad_NK).view(N, G, -1).sum(-1)
    return by_code_NG.sub_(grad_NK.view(N, G, -1).sum(-1).mul_(zero_NG)).mul_(scale_NG)
