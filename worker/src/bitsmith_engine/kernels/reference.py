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
