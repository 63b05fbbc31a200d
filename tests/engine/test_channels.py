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
            # Three bits leave some channels a fifth of their damage and others half, so that no width is best for all.
            third_K = low_K * torch.rand(K, generator=chance).mul(0.3).add(0.2)
            channels[layer] = {2: low_K, 3: third_K, 4: low_K * 0.1}
    return channels


def bits_of(plan: LayerPlan, K: int) -> Tensor:
    """Of each input channel."""
    bits_K = torch.zeros(K, dtype=torch.int64)
    for scheme, columns_K in zip(plan.schemes, plan.columns, strict=True):
        bits_K[slice(None) if columns_K is None else columns_K] = scheme.bits
    return bits_K


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
    plan = channel_plan([unit], {"d": {2: low_K, 4: high_K}}, bpw=3.0, widths=(2, 4))["d"]
    high = (bits_of(plan, 128) == 4).nonzero().squeeze(-1).tolist()
    assert high == sorted({*range(1, 128, 2), 2} - {3})
    assert plan.bpw == 3.0


@pytest.mark.parametrize("bpw", [2.0, 2.2, 2.5, 3.0, 3.7, 4.0])
@pytest.mark.parametrize("widths", [(2, 4), (4, 2, 3), (3, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_widths_of_the_steps_do_less_damage(bpw: float, widths: tuple[int, ...], seed: int) -> None:
    bpw = min(bpw, max(widths))
    channels = random_channels(seed)
    plans = channel_plan(units(), channels, bpw=bpw, widths=widths)

    items, damage, spent, total = [], 0.0, 0, 0
    for layers in SHAPES.values():
        K, N = layers[0][2], sum(N for _, N, _ in layers)
        damages = {bits: sum((channels[layer][bits] for layer, _, _ in layers), torch.zeros(())) for bits in widths}
        order_K = (damages[min(widths)] - damages[max(widths)]).argsort(descending=True)
        for step_K in torch.split(order_K, 64 if K > 64 else 32):
            items.append([(bits * N * len(step_K), damages[bits][step_K].sum().item()) for bits in widths])
        bits_K = bits_of(plans[layers[0][0]], K)
        damage += sum(damages[bits][bits_K == bits].sum().item() for bits in widths)
        spent += N * int(bits_K.sum())
        total += N * K
    capacity = round(bpw * total * 100) // 100
    assert spent <= capacity
    assert damage == pytest.approx(least_damage(items, capacity), rel=1e-5)


def test_layers_that_share_an_input_share_its_channels() -> None:
    plans = channel_plan(units(), random_channels(0), bpw=3.0, widths=(2, 4))
    assert torch.equal(bits_of(plans["q"], 128), bits_of(plans["k"], 128))
    assert set(bits_of(plans["q"], 128).tolist()) == {2, 4}


def test_a_layer_may_have_three_widths() -> None:
    shape = LayerShape(name="d", output_features=4, input_features=192)
    unit = UnitSensitivity(name="0.down", layers=(shape,), damages={}, weight_errors={})
    scale_K = torch.tensor([1.0, 100.0, 10.0]).repeat(64)
    damages = {2: scale_K, 3: scale_K / 4, 4: scale_K / 16}
    plan = channel_plan([unit], {"d": damages}, bpw=3.0, widths=(2, 3, 4))["d"]
    assert torch.equal(bits_of(plan, 192), torch.tensor([2, 4, 3]).repeat(64))
    assert [scheme.bits for scheme in plan.schemes] == [4, 3, 2]


@pytest.mark.parametrize("group_size", [None, 32, 64])
def test_every_block_divides_into_groups(group_size: int | None) -> None:
    for bpw in (2.2, 2.5, 3.0, 3.5):
        for plan in channel_plan(
            units(), random_channels(2), bpw=bpw, widths=(2, 3, 4), group_size=group_size
        ).values():
            for scheme, columns_K in zip(plan.schemes, plan.columns, strict=True):
                assert columns_K is None or len(columns_K) % scheme.group_size == 0
                assert group_size is None or scheme.group_size <= group_size


def test_the_ends_of_the_budget_have_one_width() -> None:
    for bpw in (2.0, 4.0):
        plans = channel_plan(units(), random_channels(3), bpw=bpw, widths=(2, 3, 4))
        assert {scheme.bits for plan in plans.values() for scheme in plan.schemes} == {bpw}


def test_what_cannot_be_split_or_was_not_measured_is_refused_in_words() -> None:
    channels = random_channels(0)
    with pytest.raises(BadSpec, match="below the 2 bits"):
        channel_plan(units(), channels, bpw=1.9, widths=(2, 4))
    with pytest.raises(BadSpec, match=r"widths \[2, 4\] measured; 0\.o lacks one"):
        channel_plan(units(), {**channels, "o": {2: channels["o"][2]}}, bpw=3.0, widths=(4, 2))
    shape = LayerShape(name="odd", output_features=3, input_features=80)
    odd = UnitSensitivity(name="0.o", layers=(shape,), damages={}, weight_errors={})
    with pytest.raises(BadModel, match="80 input features"):
        channel_plan([odd], {"odd": {2: torch.ones(80), 4: torch.zeros(80)}}, bpw=3.0, widths=(2, 4))
