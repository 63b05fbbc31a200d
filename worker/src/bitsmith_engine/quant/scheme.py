"""The grid of one tensor: how many bits, how many consecutive input features share a scale, and where zero lies."""

from dataclasses import dataclass
from typing import Literal

from bitsmith_engine.errors import BadModel

PREFERRED_GROUP_SIZE = {2: 64, 3: 128, 4: 128, 8: 128}
_FALLBACKS = (64, 32)
SMALLEST_GROUP_SIZE = min(_FALLBACKS)

SCALE_BITS = 16  # float16
FLOAT_ZERO_BITS = 16

ZeroKind = Literal["integer", "float"]
"""float: float16 zero points, as GreenBit's and HQQ's models have them. Such grids are read, never made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    bits: int
    group_size: int
    symmetric: bool = False  # every zero point is the middle code, and none is stored
    zero_kind: ZeroKind = "integer"

    def __post_init__(self) -> None:
        if self.bits not in PREFERRED_GROUP_SIZE:
            raise BadModel(f"codes of {self.bits} bits are not supported; use one of {_widths()}")
        if self.group_size < 1:
            raise BadModel(f"a group of {self.group_size} input features is not possible; use 32, 64 or 128")
        if self.symmetric and self.zero_kind == "float":
            raise BadModel("a symmetric grid has no zero points of its own; use zero_kind integer")

    @property
    def top_code(self) -> int:
        return (1 << self.bits) - 1

    @property
    def zero_choices(self) -> tuple[int, int]:
        """Lowest and highest integer zero point.

        With two bits only 1 and 2: a grid that never lies on one side of zero, and exact in every format of the field
        that stores zero - 1 (GPTQ v1) as well as in those that store zero.
        """
        if self.symmetric:
            middle = 1 << (self.bits - 1)
            return middle, middle
        return (1, 2) if self.bits == 2 else (0, self.top_code)

    @property
    def zero_bits(self) -> int:
        """Stored for each zero point."""
        if self.symmetric:
            return 0
        return FLOAT_ZERO_BITS if self.zero_kind == "float" else self.bits

    @property
    def bits_per_weight(self) -> float:
        """With its share of the group's scale and zero point."""
        return self.bits + (SCALE_BITS + self.zero_bits) / self.group_size


def scheme_for(bits: int, input_features: int, *, group_size: int | None = None, symmetric: bool = False) -> Scheme:
    """The asked (or else the width's preferred) group size, or the largest fallback that divides the features.

    Raises:
        BadModel: none does, or there are no codes of this width.
    """
    if bits not in PREFERRED_GROUP_SIZE:
        raise BadModel(f"codes of {bits} bits are not supported; use one of {_widths()}")
    wanted = group_size or PREFERRED_GROUP_SIZE[bits]
    for size in (wanted, *_FALLBACKS):
        if input_features and input_features % size == 0:
            return Scheme(bits=bits, group_size=size, symmetric=symmetric)
    raise BadModel(
        f"a layer has {input_features} input features, which no group size of {bits}-bit quantization divides "
        f"({wanted}, 64, 32); choose a base whose layers have a multiple of {SMALLEST_GROUP_SIZE} input features"
    )


def _widths() -> str:
    return ", ".join(str(bits) for bits in PREFERRED_GROUP_SIZE)
