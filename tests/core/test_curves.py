"""A curve with fewer points keeps its ends and every extreme of its stretches."""

from bitsmith_core.jobs.series import Curve, Point
from hypothesis import given
from hypothesis import strategies as st

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


def curve(values: list[float], max_points: int) -> Curve:
    taken = Curve(10, 9 + len(values), max_points)
    for step, value in enumerate(values, start=10):
        taken.add(Point(step, value))
    return taken


@given(values=VALUES, max_points=st.integers(4, 50))
def test_it_is_part_of_what_was_taken_and_never_too_long(values: list[float], max_points: int) -> None:
    taken = curve(values, max_points)
    points = taken.points()
    assert set(points) <= set(map(Point._make, enumerate(values, start=10)))
    assert points == sorted(set(points))
    assert len(points) == len(values) if len(values) <= max_points else len(points) <= max_points
    assert taken.total == len(values)


@given(values=VALUES, max_points=st.integers(4, 50))
def test_lowest_highest_first_and_last_stay(values: list[float], max_points: int) -> None:
    kept = curve(values, max_points).points()
    assert {min(values), max(values)} <= {point.value for point in kept}
    assert (kept[0].step, kept[-1].step) == (10, 9 + len(values))
