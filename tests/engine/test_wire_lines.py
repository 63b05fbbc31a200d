"""What a run says about itself: every step measured once, whatever the throttle, and checkpoints where they lie."""

import math

import pytest
from bitsmith_core.wire import Line, Metrics, Progress, Stage
from bitsmith_engine.errors import Stopped
from bitsmith_engine.pipeline.observer import WireObserver


def observed(said: list[Line], *, stop: bool = False) -> WireObserver:
    return WireObserver(Stage.TRAINING, said.append, lambda: stop)


def measured(said: list[Line]) -> list[list[int]]:
    return [line.steps for line in said if isinstance(line, Metrics)]


def test_steps_between_two_lines_are_measured_all_the_same() -> None:
    said: list[Line] = []
    observer = observed(said)
    for step in range(1, 101):
        observer.progress(step, 100, {"loss": float(step)} | ({"held_out": 1.0} if step == 50 else {}))
    assert [step for steps in measured(said) for step in steps] == list(range(1, 101))
    assert len([line for line in said if isinstance(line, Progress)]) == 2  # the first and the last
    columns = [line for line in said if isinstance(line, Metrics)][-1].columns
    assert columns["loss"][-1] == 100
    assert columns["held_out"].count(None) == len(columns["loss"]) - 1


def test_a_step_that_is_repeated_comes_in_a_line_of_its_own() -> None:
    said: list[Line] = []
    observer = observed(said)
    for step in (1, 2, 3, 2, 3, 4):
        observer.progress(step, 9, {"loss": math.nan})
    observer.flush()
    assert measured(said) == [[1], [2, 3], [2, 3, 4]]
    assert all(value is None for line in said if isinstance(line, Metrics) for value in line.columns["loss"])


def test_a_run_that_is_stopped_says_what_it_has_measured_first() -> None:
    said: list[Line] = []
    with pytest.raises(Stopped):
        observed(said, stop=True).progress(7, 9, {"loss": 1.0})
    assert measured(said) == [[7]]
