"""What channel-mix promises: the channels that benefit most, alike in layers that share an input, within the budget."""

import pytest
import torch
from bitsmith_engine.errors import BadModel, BadSpec
from bitsmith_engine.quant.plan import LayerPlan
from bitsmith_engine.search.channels import channel_plan
from bitsmith_engine.search.sensitivity import LayerShape, UnitSensitivity
from reference.knapsack import least_damage
from torch import Tensor

SHAPES = {"0.qkv": (("q", 8, 128), ("k", 2, 128)), "0.o": (("o", 6, 64),), "0.down": (("d", 4, 192),)}


def units() -> list[UnitSensitivity]:
    return [
        UnitSensitivity(
            name=name,
            layers=tuple(LayerShape(name=layer, output_features=N, input_features=K) for layer, N, K in layers),
            damages={},
            weight_errors={},
        )
        for name, layers in SHAPES.items()
    ]


def random_channels(seed: int) -> dict[str, dict[int, Tensor]]:
    chance = torch.Generator().manual_seed(seed)
    channels = {}
    for layers in SHAPES.values():
        for layer, _, K in layers:
            low_K = torch.randn(K, generator=chance).mul(2).exp()
            channels[layer] = {2: low_K, 4: low_K * 0.1}
    return channels


def high(plan: LayerPlan, K: int) -> list[int]:
    """The input channels at four bits."""
    found: list[int] = []
    for scheme, columns_K in zip(plan.schemes, plan.columns, strict=True):
        if scheme.bits == 4:
            found = list(range(K)) if columns_K is None else columns_K.tolist()
    return found


def test_the_most_beneficial_channels_of_a_layer_come_first() -> None:
    shape = LayerShape(name="d", output_features=3, input_features=128)
    unit = UnitSensitivity(name="0.down", layers=(shape,), damages={}, weight_errors={})
    low_K = torch.ones(128)
    low_K[1::2] = 5.0
    # What counts is what four bits save, not what two bits cost: channel 3 costs most and saves nothing.
    low_K[3] = 100.0
    high_K = torch.zeros(128)
    high_K[3] = 100.0
    high_K[2] = -4.5
    plan = channel_plan([unit], {"d": {2: low_K, 4: high_K}}, bpw=3.0)["d"]
    assert sorted(high(plan, 128)) == sorted({*range(1, 128, 2), 2} - {3})
    assert plan.bpw == 3.0


@pytest.mark.parametrize("bpw", [2.0, 2.2, 2.5, 3.0, 3.7, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_number_of_channels_for_each_unit_saves_more(bpw: float, seed: int) -> None:
    channels = random_channels(seed)
    plans = channel_plan(units(), channels, bpw=bpw)

    items, chosen, spent, total = [], 0.0, 0.0, 0
    for layers in SHAPES.values():
        benefit_K = sum((channels[layer][2] - channels[layer][4] for layer, _, _ in layers), torch.zeros(()))
        ordered = sorted(benefit_K.tolist(), reverse=True)
        K, N = len(ordered), sum(N for _, N, _ in layers)
        step = 64 if K > 64 else 32
        items.append([(2 * N * count, -sum(ordered[:count])) for count in range(0, K + 1, step)])
        taken = len(high(plans[layers[0][0]], K))
        chosen += sum(ordered[:taken])
        spent += 2 * N * taken
        total += N * K
    capacity = round((bpw - 2) * total * 100) // 100
    assert spent <= capacity
    best = least_damage(items, capacity)
    assert best is not None
    assert chosen == pytest.approx(-best, rel=1e-5)


def test_layers_that_share_an_input_share_its_channels() -> None:
    plans = channel_plan(units(), random_channels(0), bpw=3.0)
    assert high(plans["q"], 128) == high(plans["k"], 128)
    assert 0 < len(high(plans["q"], 128)) < 128


@pytest.mark.parametrize("group_size", [None, 32, 64])
def test_both_blocks_divide_into_groups(group_size: int | None) -> None:
    for bpw in (2.2, 2.5, 3.0, 3.5):
        for plan in channel_plan(units(), random_channels(2), bpw=bpw, group_size=group_size).values():
            for scheme, columns_K in zip(plan.schemes, plan.columns, strict=True):
                assert columns_K is None or len(columns_K) % scheme.group_size == 0
                assert group_size is None or scheme.group_size <= group_size


def test_the_ends_of_the_budget_have_one_width() -> None:
    for bpw in (2.0, 4.0):
        plans = channel_plan(units(), random_channels(3), bpw=bpw)
        assert {scheme.bits for plan in plans.values() for scheme in plan.schemes} == {bpw}


def test_what_cannot_be_split_or_was_not_measured_is_refused_in_words() -> None:
    channels = random_channels(0)
    with pytest.raises(BadSpec, match="below the 2 bits"):
        channel_plan(units(), channels, bpw=1.9)
    with pytest.raises(BadSpec, match=r"widths \[2, 4\] measured; 0\.o lacks one"):
        channel_plan(units(), {**channels, "o": {2: channels["o"][2]}}, bpw=3.0)
    shape = LayerShape(name="odd", output_features=3, input_features=80)
    odd = UnitSensitivity(name="0.o", layers=(shape,), damages={}, weight_errors={})
    with pytest.raises(BadModel, match="80 input features"):
        channel_plan([odd], {"odd": {2: torch.ones(80), 4: torch.zeros(80)}}, bpw=3.0)
