"""What a layer's plan promises: every input channel once, the bits it says, and itself again from JSON."""

import pytest
import torch
from bitsmith_engine.errors import BadModel
from bitsmith_engine.quant.parameter import dequantize_layer
from bitsmith_engine.quant.plan import (
    PLANS,
    LayerPlan,
    fallback_notes,
    plan_channel_mix,
    plan_layer,
    quantize_layer,
)
from bitsmith_engine.quant.scheme import Scheme
from bitsmith_engine.quant.storage import packed_bytes
from toy_plans import four_and_two

HIGH_K = torch.arange(3, 131, 2)  # 64 of 256 channels


def weights(N: int = 16, K: int = 256) -> torch.Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(0))


def test_high_columns_get_four_bits_and_the_others_two() -> None:
    plan = four_and_two(HIGH_K, 256)
    high, low = plan.blocks("model.o")
    assert (high[0], high[1].bits) == ("model.o#4", 4)
    assert (low[0], low[1].bits) == ("model.o#2", 2)
    assert high[2] is not None
    assert low[2] is not None
    assert torch.equal(high[2], HIGH_K)
    assert low[2].tolist() == sorted(set(range(256)) - set(HIGH_K.tolist()))


def test_bpw_counts_codes_by_the_channels_they_belong_to() -> None:
    assert four_and_two(HIGH_K, 256).bpw == (64 * 4 + 192 * 2) / 256
    assert plan_layer(3, 256).bpw == 3


@pytest.mark.parametrize("plan", [four_and_two(HIGH_K, 256), plan_layer(4, 256), plan_layer(8, 256, symmetric=True)])
def test_bits_per_weight_are_the_bits_that_storage_takes(plan: LayerPlan) -> None:
    blocks = quantize_layer("w", weights(), plan, clip_search=False)
    stored = sum(sum(packed_bytes(block)) for block in blocks)
    # Zero points of a row fill up a byte.
    assert 8 * stored == pytest.approx(plan.bits_per_weight(16) * 16 * 256, rel=0.02)


@pytest.mark.parametrize(("count", "bits"), [(0, 2), (256, 4)])
def test_no_high_channel_or_only_such_is_a_plan_of_one_block(count: int, bits: int) -> None:
    ((name, scheme, columns_K),) = four_and_two(torch.arange(count), 256).blocks("w")
    assert (name, scheme.bits, columns_K) == ("w", bits, None)


def test_a_plan_comes_back_from_json() -> None:
    plans = {
        "a": four_and_two(HIGH_K, 256, group_size=32),
        "b": plan_layer(3, 256, symmetric=True),
        "c": LayerPlan((Scheme(bits=4, group_size=64, zero_kind="float"),), (None,)),
    }
    loaded = PLANS.validate_json(PLANS.dump_json(plans))
    assert list(loaded) == list(plans)
    for name, plan in plans.items():
        assert loaded[name].schemes == plan.schemes
        for ours, theirs in zip(loaded[name].columns, plan.columns, strict=True):
            assert (ours is None and theirs is None) or torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def test_a_layer_may_have_as_many_widths_as_there_are() -> None:
    columns = {8: torch.arange(32), 3: torch.arange(64, 256), 2: torch.arange(32, 64), 4: torch.arange(0)}
    plan = plan_channel_mix(columns, 256)
    assert [(name, scheme.bits) for name, scheme, _ in plan.blocks("w")] == [("w#8", 8), ("w#3", 3), ("w#2", 2)]
    assert plan.bpw == (32 * 8 + 192 * 3 + 32 * 2) / 256
    blocks = quantize_layer("w", weights(), plan, clip_search=False)
    assert sum(sum(packed_bytes(block)) for block in blocks) * 8 == pytest.approx(
        plan.bits_per_weight(16) * 16 * 256, rel=0.02
    )


def test_a_part_that_no_group_divides_is_refused() -> None:
    with pytest.raises(BadModel, match=r"65 of 256.*multiple of 32; use layer-mix"):
        four_and_two(torch.arange(65), 256)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ((torch.arange(64), torch.arange(64)), "each of 128 input channels once"),
        ((torch.arange(64), None), "without columns"),
        ((torch.arange(64),), "make no plan"),
        ((torch.arange(32), torch.arange(32, 96)), "do not divide a block of 32"),
    ],
)
def test_blocks_that_do_not_make_a_layer_are_refused(columns: tuple[torch.Tensor | None, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        LayerPlan((Scheme(bits=4, group_size=64), Scheme(bits=2, group_size=64)), columns)


def test_quantizing_by_plan_rounds_each_column_on_the_grid_of_its_block() -> None:
    w_NK = weights()
    blocks = quantize_layer("w", w_NK, four_and_two(HIGH_K, 256), clip_search=True)
    error_K = (dequantize_layer(blocks, torch.float32) - w_NK).square().mean(0)
    is_high_K = torch.zeros(256, dtype=torch.bool)
    is_high_K[HIGH_K] = True
    assert error_K[is_high_K].mean() < 0.02
    assert 0.08 < error_K[~is_high_K].mean() < 0.16


def test_importance_follows_the_columns_into_their_blocks() -> None:
    w_NK, importance_K = weights(), torch.arange(1.0, 257.0)
    plan = four_and_two(HIGH_K, 256)
    shuffled_K = torch.randperm(256, generator=torch.Generator().manual_seed(1))
    moved_high_K = shuffled_K.argsort()[HIGH_K]  # where the high channels went

    straight = quantize_layer("w", w_NK, plan, clip_search=True, importance_K=importance_K)
    moved = quantize_layer(
        "w",
        w_NK[:, shuffled_K],
        four_and_two(moved_high_K, 256),
        clip_search=True,
        importance_K=importance_K[shuffled_K],
    )
    assert torch.equal(straight[0].codes_NK, moved[0].codes_NK)


def test_a_broken_weight_is_refused_by_the_layers_name() -> None:
    with pytest.raises(BadModel, match=r"model\.layers\.1\.down"):
        quantize_layer("model.layers.1.down", weights() / 0, plan_layer(4, 256), clip_search=True)


def test_notes_say_where_a_group_is_not_the_one_asked_for() -> None:
    def noted(bits: int, K: int, group_size: int | None) -> list[str]:
        blocks = quantize_layer("w", weights(2, K), plan_layer(bits, K, group_size=group_size), clip_search=False)
        return fallback_notes({block.name: block for block in blocks}, group_size=group_size)

    assert noted(4, 256, None) == []
    assert noted(4, 256, 64) == []
    assert noted(4, 192, None) == ["1 INT4 layers with 192 input features use groups of 64: 128 does not divide 192"]
    assert noted(2, 96, 64) == ["1 INT2 layers with 96 input features use groups of 32: 64 does not divide 96"]


def test_notes_count_the_parts_of_layers_together() -> None:
    plans = [four_and_two(torch.arange(count), 512) for count in (64, 192, 256)]
    blocks = [block for plan in plans for block in quantize_layer("w", weights(2, 512), plan, clip_search=False)]
    assert fallback_notes({str(index): block for index, block in enumerate(blocks)}) == [
        "2 INT4 parts of layers use groups of 64: 128 does not divide their input channels"
    ]
