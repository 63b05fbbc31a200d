"""Which grids a layer's weight gets: one for all input channels, or a wider one for some than for others.

A plan is decided by the search, written as JSON, and read by whatever makes the first codes.

Shape letters: N output features, K input features.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import PlainSerializer, PlainValidator, TypeAdapter
from torch import Tensor

from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import COLUMN_BITS, QuantParameter
from bitsmith_engine.quant.scheme import PREFERRED_GROUP_SIZE, SMALLEST_GROUP_SIZE, Scheme, scheme_for


def _tensor_of(columns: object) -> Tensor:
    return columns if isinstance(columns, Tensor) else torch.tensor(columns, dtype=torch.int64)


def _list_of(columns_K: Tensor) -> list[int]:
    values: list[int] = columns_K.tolist()
    return values


Columns = Annotated[Tensor, PlainValidator(_tensor_of), PlainSerializer(_list_of, return_type=list[int])]
"""int64 input channels, a JSON list of numbers outside."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """One block of all input channels (columns None), or several blocks that share them out."""

    schemes: tuple[Scheme, ...]
    columns: tuple[Columns | None, ...]  # of each block, in block order; all on the CPU

    def __post_init__(self) -> None:
        if not self.schemes or len(self.schemes) != len(self.columns):
            raise ValueError(f"{len(self.schemes)} schemes and {len(self.columns)} lists of columns make no plan")
        if len(self.schemes) == 1:
            return
        if len({scheme.bits for scheme in self.schemes}) < len(self.schemes):
            raise ValueError("two blocks of a layer have the same width; make them one")
        lists = [columns_K for columns_K in self.columns if columns_K is not None]
        if len(lists) < len(self.columns):
            raise ValueError("a block without columns stands beside others")
        every_K = torch.cat(lists)
        if not torch.equal(every_K.sort().values, torch.arange(len(every_K))):
            raise ValueError(f"the blocks do not cover each of {len(every_K)} input channels once")
        for scheme, columns_K in zip(self.schemes, lists, strict=True):
            if len(columns_K) % scheme.group_size:
                raise ValueError(f"groups of {scheme.group_size} do not divide a block of {len(columns_K)} channels")

    @property
    def bpw(self) -> float:
        """Bits per weight, counting codes only."""
        return self._mean([scheme.bits for scheme in self.schemes])

    def bits_per_weight(self, output_features: int) -> float:
        """As stored: with scales, zero points and the lists of columns."""
        columns = COLUMN_BITS / output_features if len(self.columns) > 1 else 0.0
        return columns + self._mean([scheme.bits_per_weight for scheme in self.schemes])

    def blocks(self, layer_name: str) -> Iterator[tuple[str, Scheme, Tensor | None]]:
        """(parameter name, scheme, columns) of each block of this layer."""
        for scheme, columns_K in zip(self.schemes, self.columns, strict=True):
            name = layer_name if len(self.schemes) == 1 else f"{layer_name}#{scheme.bits}"
            yield name, scheme, columns_K

    def _mean(self, bits: list[float] | list[int]) -> float:
        sizes = [1 if columns_K is None else len(columns_K) for columns_K in self.columns]
        return sum(width * size for width, size in zip(bits, sizes, strict=True)) / sum(sizes)


Plans = dict[str, LayerPlan]
"""By module path of the linear layer, in the model's order."""

PLANS = TypeAdapter(Plans)
"""PLANS.dump_json(plans), PLANS.validate_json(text)."""


def plan_layer(bits: int, K: int, *, group_size: int | None = None, symmetric: bool = False) -> LayerPlan:
    """One width for all K input channels."""
    return LayerPlan((scheme_for(bits, K, group_size=group_size, symmetric=symmetric),), (None,))


def plan_channel_mix(
    columns: Mapping[int, Tensor], K: int, *, group_size: int | None = None, symmetric: bool = False
) -> LayerPlan:
    """A block for each width that has input channels, in the order they come in; one width makes a plan of one block.

    Args:
        columns: by width, which of the K input channels; each has to be in one of them.

    Raises:
        BadModel: a width has a number of channels that no group size divides.
    """
    blocks = [(bits, own_K.to("cpu", torch.int64)) for bits, own_K in columns.items() if len(own_K)]
    if len(blocks) == 1:
        return plan_layer(blocks[0][0], K, group_size=group_size, symmetric=symmetric)
    for bits, own_K in blocks:
        if len(own_K) % SMALLEST_GROUP_SIZE:
            raise BadModel(
                f"{len(own_K)} of {K} input channels cannot have {bits} bits of their own: every width needs a "
                f"multiple of {SMALLEST_GROUP_SIZE}; use layer-mix for this base"
            )
    return LayerPlan(
        tuple(scheme_for(bits, len(own_K), group_size=group_size, symmetric=symmetric) for bits, own_K in blocks),
        tuple(own_K for _, own_K in blocks),
    )


def quantize_layer(
    name: str, w_NK: Tensor, plan: LayerPlan, *, clip_search: bool, importance_K: Tensor | None = None
) -> list[QuantParameter]:
    """Round a layer's float weight to the grids of its plan, on the weight's device.

    Raises:
        BadModel: naming the layer, if a weight is NaN or infinite.
    """
    parameters = []
    for block_name, scheme, columns_K in plan.blocks(name):
        own_NK = w_NK if columns_K is None else w_NK[:, columns_K]
        own_importance_K = importance_K if columns_K is None or importance_K is None else importance_K[columns_K]
        affine = quantize(own_NK, scheme, clip_search=clip_search, importance_K=own_importance_K, name=block_name)
        parameters.append(QuantParameter(block_name, scheme, affine, columns_K))
    return parameters


def fallback_notes(parameters: Mapping[str, QuantParameter], *, group_size: int | None = None) -> list[str]:
    """Where a group is smaller than was asked (or than its width prefers, if nothing was), in words."""
    wholes: Counter[tuple[int, int, int]] = Counter()
    blocks: Counter[tuple[int, int]] = Counter()
    for parameter in parameters.values():
        bits, size = parameter.scheme.bits, parameter.scheme.group_size
        if size == (group_size or PREFERRED_GROUP_SIZE[bits]):
            continue
        if parameter.columns_K is None:
            wholes[bits, size, parameter.shape[1]] += 1
        else:
            blocks[bits, size] += 1
    return [
        f"{count} INT{bits} layers with {K} input features use groups of {size}: "
        f"{group_size or PREFERRED_GROUP_SIZE[bits]} does not divide {K}"
        for (bits, size, K), count in sorted(wholes.items())
    ] + [
        f"{count} INT{bits} parts of layers use groups of {size}: "
        f"{group_size or PREFERRED_GROUP_SIZE[bits]} does not divide their input channels"
        for (bits, size), count in sorted(blocks.items())
    ]
