"""What the search promises: no choice of widths within the budget does less damage, and the budget is kept."""

import random
import time
from fractions import Fraction

import pytest
import torch
from bitsmith_engine.errors import BadSpec
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.quant.storage import packed_bytes
from bitsmith_engine.search.allocate import allocate, allocate_bytes, plans_of_bits, stored_bytes, total_damage
from bitsmith_engine.search.knapsack import Option, solve
from bitsmith_engine.search.sensitivity import LayerShape, Sensitivity, UnitSensitivity
from hypothesis import given
from hypothesis import strategies as st
from reference.knapsack import least_damage

# Few values, so that ties, damages that rise with size, and options that dominate others are common.
OPTIONS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0, 7.5])), min_size=1, max_size=4
)


def unit(name: str, weights: int, damages: dict[int, float]) -> UnitSensitivity:
    layer = LayerShape(name=name, output_features=weights, input_features=1)
    return UnitSensitivity(name=name, layers=(layer,), damages=damages, weight_errors={})


def sensitivity(units: list[UnitSensitivity], *, symmetric: bool = False) -> Sensitivity:
    return Sensitivity(
        measure="fisher",
        widths=tuple(units[0].damages),
        base="a model of the test's own",
        samples=1,
        tokens=1,
        answer_tokens=1,
        seed=0,
        group_size=None,
        symmetric=symmetric,
        clip_search=True,
        units=tuple(units),
    )


@given(st.lists(OPTIONS, min_size=1, max_size=5), st.integers(0, 50), st.sampled_from([1, 64, 110592]))
def test_the_choice_is_the_best_of_all(items: list[list[tuple[int, float]]], capacity: int, scale: int) -> None:
    scaled = [[Option(size * scale, damage) for size, damage in options] for options in items]
    choice = solve(scaled, capacity * scale)
    best = least_damage(items, capacity)
    if choice is None:
        assert best is None
        return
    picked = [options[index] for options, index in zip(scaled, choice.options, strict=True)]
    assert choice.is_exact
    assert sum(option.size for option in picked) <= capacity * scale
    assert sum(option.damage for option in picked) == pytest.approx(best)
    assert choice.damage == pytest.approx(best)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.floats(0, 10), min_size=4, max_size=4)), min_size=1, max_size=5),
    st.integers(200, 800).map(lambda hundredths: hundredths / 100),
)
def test_a_mean_of_bits_is_kept_exactly(rows: list[tuple[int, list[float]]], bpw: float) -> None:
    widths = (2, 3, 4, 8)
    units = [
        unit(f"{index}.o", weights, dict(zip(widths, damages, strict=True)))
        for index, (weights, damages) in enumerate(rows)
    ]
    bits = allocate(units, bpw=bpw, widths=widths)
    spent = sum(bits[unit.name] * unit.weights for unit in units)
    capacity = Fraction(str(bpw)) * sum(unit.weights for unit in units)
    assert spent <= capacity
    options = [[(width * unit.weights, unit.damages[width]) for width in widths] for unit in units]
    assert total_damage(units, bits) == pytest.approx(least_damage(options, int(capacity)))


def test_the_ends_of_the_budget_are_all_narrow_and_all_wide() -> None:
    units = [unit("0.o", 10, {2: 2.0, 4: 1.0}), unit("1.o", 30, {2: 3.0, 4: 1.0})]
    assert allocate(units, bpw=2.0, widths=(2, 4)) == {"0.o": 2, "1.o": 2}
    assert allocate(units, bpw=4.0, widths=(2, 4)) == {"0.o": 4, "1.o": 4}


def test_a_large_unit_gives_way_to_smaller_ones_worth_more() -> None:
    units = [unit("0.o", 2, {2: 1.9, 4: 0.0}), unit("1.o", 1, {2: 1.0, 4: 0.0}), unit("2.o", 1, {2: 1.0, 4: 0.0})]
    assert allocate(units, bpw=3.0, widths=(2, 4)) == {"0.o": 2, "1.o": 4, "2.o": 4}


def test_bits_that_do_harm_are_left_unspent() -> None:
    assert allocate([unit("0.o", 5, {2: 0.5, 3: 0.7, 4: 0.6})], bpw=4.0, widths=(2, 3, 4)) == {"0.o": 2}


def test_a_budget_out_of_reach_and_a_width_not_measured_are_refused_in_words() -> None:
    units = [unit("0.o", 10, {3: 1.0, 4: 0.5})]
    with pytest.raises(BadSpec, match=r"bpw 2\.5 is below"):
        allocate(units, bpw=2.5, widths=(3, 4))
    with pytest.raises(BadSpec, match=r"\[8\] were not measured, only \[3, 4\]"):
        allocate(units, bpw=3.5, widths=(3, 8))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("K", [96, 128, 192])
def test_stored_bytes_are_those_of_the_file(bits: int, K: int, symmetric: bool) -> None:
    w_NK = torch.randn(5, K, generator=torch.Generator().manual_seed(0))
    scheme = scheme_for(bits, K, symmetric=symmetric)
    parameter = QuantParameter("layer", scheme, quantize(w_NK, scheme, clip_search=False))
    layer = LayerShape(name="layer", output_features=5, input_features=K)
    expected = packed_bytes(parameter)
    assert stored_bytes(layer, bits, group_size=None, symmetric=symmetric) == expected.codes + expected.scales_and_zeros


def test_a_budget_of_bytes_buys_the_least_damage_that_fits() -> None:
    chance = random.Random(0)
    units = []
    for index in range(5):
        layer = LayerShape(name=f"{index}.o", output_features=chance.randint(1, 9) * 8, input_features=128)
        damages = {bits: chance.random() * 4.0**-bits for bits in (2, 3, 4, 8)}
        units.append(UnitSensitivity(name=f"{index}.o", layers=(layer,), damages=damages, weight_errors={}))
    sizes = [[stored_bytes(u.layers[0], bits, group_size=None, symmetric=False) for bits in u.damages] for u in units]
    options = [list(zip(row, u.damages.values(), strict=True)) for row, u in zip(sizes, units, strict=True)]
    smallest, largest = sum(map(min, sizes)), sum(map(max, sizes))
    for budget in range(smallest, largest, (largest - smallest) // 7):
        bits = allocate_bytes(sensitivity(units), budget_bytes=budget, widths=(2, 3, 4, 8))
        assert total_damage(units, bits) == pytest.approx(least_damage(options, budget))
    with pytest.raises(BadSpec, match=rf"needs {smallest}"):
        allocate_bytes(sensitivity(units), budget_bytes=smallest - 1, widths=(2, 3, 4, 8))


@pytest.mark.parametrize("common", [1, 8 * 2**20])
def test_a_large_model_takes_seconds_at_most(common: int) -> None:
    """80 decoder layers with 70B's proportions; with and without a common divisor of the sizes."""
    chance = random.Random(1)
    units = []
    for index in range(320):
        weights = (5, 4, 28, 14)[index % 4] * (common if common > 1 else 1_000_003 + index)
        worst = chance.lognormvariate(0, 1.5)
        damages = {bits: worst * 4.0**-bits * chance.uniform(0.5, 2) for bits in (2, 3, 4, 8)}
        units.append(unit(f"{index}.o", weights, damages))
    started = time.process_time()
    for bpw in (2.2, 3.0, 4.0):
        allocate(units, bpw=bpw, widths=(2, 3, 4, 8))
    assert time.process_time() - started < 10


def test_states_beyond_memory_are_dropped_and_the_answer_says_so() -> None:
    """Damage proportional to size leaves the bounds nothing to cut: the worst case."""
    chance = random.Random(2)
    sizes = [chance.randint(10**8, 10**9) for _ in range(60)]
    items = [[Option(2 * size, size * chance.uniform(0.99, 1.0)), Option(4 * size, 0.0)] for size in sizes]
    capacity = 3 * sum(sizes)
    choice = solve(items, capacity, most_states=8)
    assert choice is not None
    picked = [options[index] for options, index in zip(items, choice.options, strict=True)]
    assert sum(option.size for option in picked) <= capacity
    assert not choice.is_exact
    exact = solve(items[:12], 3 * sum(sizes[:12]))
    assert exact is not None
    assert exact.is_exact
    assert choice.bound <= choice.damage <= choice.bound * 1.02


def test_a_layers_plan_has_the_width_of_its_unit() -> None:
    shapes = [LayerShape(name=name, output_features=4, input_features=192) for name in ("q", "k")]
    units = [UnitSensitivity(name="0.qkv", layers=tuple(shapes), damages={2: 1.0, 4: 0.0}, weight_errors={})]
    plans = plans_of_bits(units, {"0.qkv": 4}, group_size=None, symmetric=True)
    assert list(plans) == ["q", "k"]
    for plan in plans.values():
        assert [(scheme.bits, scheme.group_size, scheme.symmetric) for scheme in plan.schemes] == [(4, 64, True)]
