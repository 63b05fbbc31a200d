"""A curve with fewer points that looks the same: of every stretch of steps its lowest and its highest value stay. Pure.

The first and the last point stay too, so a curve begins and ends where it did.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Point(NamedTuple):
    step: int
    value: float


@dataclass(slots=True)
class Curve:
    """Takes points in the order of their steps and holds at most 2 * max_points of them.

    Args:
        first_step, last_step: what all steps lie between, ends included.
    """

    first_step: int
    last_step: int
    max_points: int
    total: int = 0  # points taken
    _all: list[Point] | None = field(default_factory=list)
    _extremes: dict[int, tuple[Point, Point]] = field(default_factory=dict)
    _first: Point | None = None
    _last: Point | None = None

    def add(self, point: Point) -> None:
        self.total += 1
        self._first = self._first or point
        self._last = point
        if self._all is None:
            self._put(point)
            return
        self._all.append(point)
        if len(self._all) > self.max_points:
            for known in self._all:
                self._put(known)
            self._all = None

    def points(self) -> list[Point]:
        """At most max_points, by step; all that were taken if they are no more than that."""
        if self._all is not None:
            return list(self._all)
        assert self._first is not None
        assert self._last is not None
        kept = {self._first, self._last}
        kept.update(point for pair in self._extremes.values() for point in pair)
        return sorted(kept)

    def _put(self, point: Point) -> None:
        buckets = max(1, (self.max_points - 2) // 2)
        bucket = (point.step - self.first_step) * buckets // (self.last_step - self.first_step + 1)
        low, high = self._extremes.get(bucket, (point, point))
        self._extremes[bucket] = (
            point if point.value < low.value else low,
            point if point.value > high.value else high,
        )
