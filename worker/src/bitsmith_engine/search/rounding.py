"""What rounding a layer to a width does to it: the same grid that its first codes would be on.

Shape letters: N output features, K input features.
"""

from dataclasses import dataclass

from torch import Tensor

from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    group_size: int | None  # None: the preferred one of each width
    symmetric: bool
    clip_search: bool


def rounded(w_NK: Tensor, bits: int, grid: Grid) -> Tensor:
    """The weights at this width, in the type they came in."""
    scheme = scheme_for(bits, w_NK.shape[1], group_size=grid.group_size, symmetric=grid.symmetric)
    affine = quantize(w_NK, scheme, clip_search=grid.clip_search)
    return QuantParameter("", scheme, affine).dequantize(w_NK.dtype)
