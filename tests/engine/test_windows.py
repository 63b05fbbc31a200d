"""What calibration looks at: whole windows of the training text, the same for the same seed."""

from itertools import pairwise
from pathlib import Path

import torch
from bitsmith_engine.calibrate.windows import calibration_windows, layer_windows
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.opening import open_base
from torch import Tensor


def example(number: int, length: int) -> Example:
    """Its tokens say whose they are and in which place: 1003 is the fourth of example 1."""
    ids = tuple(1000 * number + place for place in range(length))
    return Example(ids=ids, learned=(True,) * length, answer_start=0, answer="", is_cut=False)


EXAMPLES = [example(number, length=10 + number) for number in range(20)]


def documents(tokens_BT: Tensor) -> list[int]:
    """Whose tokens they are, in order."""
    numbers = (tokens_BT.flatten() // 1000).tolist()
    return [numbers[0], *(after for before, after in pairwise(numbers) if after != before)]


def test_windows_are_the_text_of_the_examples_without_a_gap() -> None:
    tokens_BT = calibration_windows(EXAMPLES, samples=6, length=16, seed=0)
    assert tokens_BT.shape == (6, 16)
    assert tokens_BT.dtype == torch.int64
    order = documents(tokens_BT)
    text = [token for number in order for token in EXAMPLES[number].ids]
    assert tokens_BT.flatten().tolist() == text[: 6 * 16]


def test_no_example_is_used_twice() -> None:
    order = documents(calibration_windows(EXAMPLES, samples=100, length=16, seed=0))
    assert len(order) == len(set(order)) == 20


def test_an_incomplete_last_window_is_left_out() -> None:
    tokens = sum(len(example.ids) for example in EXAMPLES)
    tokens_BT = calibration_windows(EXAMPLES, samples=100, length=16, seed=0)
    assert tokens_BT.shape == (tokens // 16, 16)
    assert tokens % 16


def test_less_text_than_a_window_is_one_shorter_window() -> None:
    tokens_BT = calibration_windows(EXAMPLES[:2], samples=4, length=256, seed=0)
    assert tokens_BT.shape == (1, 10 + 11)


def test_the_seed_decides_the_order() -> None:
    first, again, other = (calibration_windows(EXAMPLES, samples=8, length=16, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert documents(first) != documents(other)


def test_a_layer_by_itself_is_fitted_to_the_first_windows(toy_model: Path) -> None:
    base = open_base(toy_model)
    tokens_BT = torch.arange(200 * 256).view(200, 256)
    assert torch.equal(layer_windows(base, tokens_BT), tokens_BT[:128])
    assert torch.equal(layer_windows(base, tokens_BT[:5]), tokens_BT[:5])
    assert len(layer_windows(base, torch.zeros(2, 40_000))) == 1
    base.config.intermediate_size = 2560
    assert torch.equal(layer_windows(base, tokens_BT), tokens_BT[:160])
