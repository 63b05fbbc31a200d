"""Plain torch: the specification of every kernel.

Shape letters: N output features, K input features, G groups per row, S features per group (K = G * S).
"""

import torch
from torch import Tensor


def dequantize(codes_NK: Tensor, scale_NG: Tensor, zero_NG: Tensor, dtype: torch.dtype) -> Tensor:
    """(code - zero) * scale, exact in float32, then rounded once to dtype.

    A code difference has 4 bits and a float16 scale 11, so the product fits float32's 24.
    """
    N, K = codes_NK.shape
    w_NGS = codes_NK.to(torch.float32).view(N, scale_NG.shape[1], -1)
    w_NGS.sub_(zero_NG.to(torch.float32).unsqueeze(-1)).mul_(scale_NG.to(torch.float32).unsqueeze(-1))
    return w_NGS.view(N, K).to(dtype)
