"""The grid of one tensor: how many bits, and how many consecutive input features share a scale."""

from dataclasses import dataclass

from bitsmith_engine.errors import BadModel

PREFERRED_GROUP_SIZE = {2: 64, 4: 128}
_FALLBACKS = (64, 32)

SCALE_BITS = 16  # float16


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    bits: int
    group_size: int

    @property
    def top_code(self) -> int:
        return (1 << self.bits) - 1

    @property
    def zero_choices(self) -> tuple[int, int]:
        """Lowest and highest zero point.

        With two bits only 1 and 2: a grid that never lies on one side of zero, and exact in every format of the field
        that stores zero - 1 (GPTQ v1) as well as in those that store zero.
        """
        return (1, 2) if self.bits == 2 else (0, self.top_code)

    @property
    def bits_per_weight(self) -> float:
        """With its share of a float16 scale and a zero point of `bits` bits."""
        return self.bits + (SCALE_BITS + self.bits) / self.group_size


def scheme_for(bits: int, input_features: int) -> Scheme:
    """The preferred group size for this width, or the largest fallback that divides the features.

    Raises:
        BadModel: none does.
    """
    for group_size in (PREFERRED_GROUP_SIZE[bits], *_FALLBACKS):
        if input_features % group_size == 0:
            return Scheme(bits=bits, group_size=group_size)
    raise BadModel(
        f"a layer has {input_features} input features, which no group size of {bits}-bit quantization divides "
        f"({PREFERRED_GROUP_SIZE[bits]}, 64, 32); this model cannot be quantized"
    )
