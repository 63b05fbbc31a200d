"""What the search promises: no choice of widths within the budget saves more."""

import pytest
from bitsmith_engine.search.allocate import allocate
from hypothesis import given
from hypothesis import strategies as st
from reference.knapsack import best_gain


@given(
    st.lists(st.tuples(st.floats(0, 10), st.integers(1, 9)), min_size=1, max_size=9),
    st.integers(200, 400).map(lambda hundredths: hundredths / 100),
    st.sampled_from([1, 64, 110592]),
)
def test_the_choice_is_the_best_of_all(items: list[tuple[float, int]], bpw: float, unit: int) -> None:
    gains = {str(index): gain for index, (gain, _) in enumerate(items)}
    weights = {str(index): size * unit for index, (_, size) in enumerate(items)}
    bits = allocate(gains, weights, bpw=bpw)
    mean = sum(bits[name] * weights[name] for name in bits) / sum(weights.values())
    assert mean <= bpw + 1e-6
    chosen = sum(gains[name] for name in bits if bits[name] == 4)
    assert chosen == pytest.approx(best_gain(gains, weights, bpw))


def test_the_ends_of_the_budget_are_all_low_and_all_high() -> None:
    gains, weights = {"a": 1.0, "b": 2.0}, {"a": 10, "b": 30}
    assert allocate(gains, weights, bpw=2.0) == {"a": 2, "b": 2}
    assert allocate(gains, weights, bpw=4.0) == {"a": 4, "b": 4}


def test_a_large_item_gives_way_to_smaller_ones_worth_more() -> None:
    gains, weights = {"large": 1.9, "one": 1.0, "two": 1.0}, {"large": 2, "one": 1, "two": 1}
    assert allocate(gains, weights, bpw=3.0) == {"large": 2, "one": 4, "two": 4}
