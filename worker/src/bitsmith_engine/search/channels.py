"""Which input channels of each layer get four bits, the rest two, under an exact budget of code bits.

    benefit_k(u) = sum over the unit's layers of   damage_k at two bits - damage_k at four bits

Layers of a unit read the same input, so they have the same channels at four bits: their columns are permuted alike.
Channels are taken a step at a time, the most beneficial first, so that both blocks of a layer divide into groups:
within a unit the benefit of further steps can only fall. How many steps each unit gets is chosen over all units at
once. As benefits are concave, taking the largest benefit per bit wherever it is would be exact but for the last step
that fits; steps are of different sizes, so the exact knapsack, which starts from that greedy choice, has the last word.

Benefits are diagonal: errors of different channels are taken as independent. Rounding is measured in groups of
neighbouring channels; in the plan a group holds channels of one block.

Shape letters: K input features.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import floor

import torch
from torch import Tensor

from bitsmith_engine.errors import BadModel, BadSpec
from bitsmith_engine.quant.plan import Plans, plan_channel_mix
from bitsmith_engine.search.knapsack import Option, solve
from bitsmith_engine.search.sensitivity import Channels, UnitSensitivity

LOW_BITS, HIGH_BITS = 2, 4
WIDTHS = (LOW_BITS, HIGH_BITS)
"""What has to be measured."""

_STEPS = (64, 32)


def channel_plan(
    units: Sequence[UnitSensitivity],
    channels: Channels,
    *,
    bpw: float,
    group_size: int | None = None,
    symmetric: bool = False,
) -> Plans:
    """The plan of each layer, in the model's order.

    Args:
        bpw: mean of the code bits over all weights, LOW_BITS .. HIGH_BITS; never exceeded.
        group_size: None chooses for each block the preferred size of its width that divides it.

    Raises:
        BadModel: a layer's input features are no multiple of 32.
        BadSpec: bpw is below LOW_BITS, or the widths were not measured.
    """
    orders = [_order(unit, channels) for unit in units]
    items = [
        _options(unit, *order, step_of(_input_features(unit), group_size))
        for unit, order in zip(units, orders, strict=True)
    ]
    extra = (Fraction(repr(float(bpw))) - LOW_BITS) * sum(unit.weights for unit in units)
    choice = solve(items, floor(extra))
    if choice is None:
        raise BadSpec(f"bpw {bpw} is below the {LOW_BITS} bits of channel-mix's narrow width; raise it")

    plans: Plans = {}
    for unit, (order_K, _), taken in zip(units, orders, choice.options, strict=True):
        K = _input_features(unit)
        high_K = order_K[: taken * step_of(K, group_size)].sort().values
        for layer in unit.layers:
            plans[layer.name] = plan_channel_mix(
                high_K, K, group_size=group_size, symmetric=symmetric, high_bits=HIGH_BITS, low_bits=LOW_BITS
            )
    return plans


def step_of(K: int, group_size: int | None) -> int:
    """How many channels move from one block to the other at a time.

    Raises:
        BadModel: no group divides the layer.
    """
    # Of a layer that is a single group the halves can still differ.
    for step in _STEPS if group_size is None else (group_size, *_STEPS):
        if K % step == 0 and step < K:
            return step
    raise BadModel(
        f"a layer has {K} input features; channel-mix needs a multiple of {_STEPS[-1]}, and more than one. "
        "Choose another base, or layer-mix"
    )


def _order(unit: UnitSensitivity, channels: Channels) -> tuple[Tensor, Tensor]:
    """The unit's input channels from the most beneficial down, and their benefits, float64."""
    damages = [channels.get(layer.name, {}) for layer in unit.layers]
    if any(bits not in by_bits for by_bits in damages for bits in WIDTHS):
        raise BadSpec(f"channel-mix needs the widths {list(WIDTHS)} measured; {unit.name} lacks one: measure again")
    benefit_K = torch.stack([(by_bits[LOW_BITS] - by_bits[HIGH_BITS]).double() for by_bits in damages]).sum(0)
    order_K = benefit_K.argsort(descending=True, stable=True)
    return order_K, benefit_K[order_K]


def _options(unit: UnitSensitivity, order_K: Tensor, benefit_K: Tensor, step: int) -> list[Option]:
    """Option j: j steps at HIGH_BITS. Sizes are bits beyond LOW_BITS, damages the benefits with their sign turned."""
    output_features = sum(layer.output_features for layer in unit.layers)
    gained = benefit_K.view(-1, step).sum(-1).cumsum(0).tolist()
    bits = (HIGH_BITS - LOW_BITS) * output_features * step
    return [Option(0, 0.0), *(Option(taken * bits, -gain) for taken, gain in enumerate(gained, start=1))]


def _input_features(unit: UnitSensitivity) -> int:
    return unit.layers[0].input_features
