"""The training text as windows of one length: what calibration looks at.

Shape letters: B windows, T tokens per window.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from bitsmith_engine.data.examples import Example


def calibration_windows(examples: Sequence[Example], *, samples: int, length: int, seed: int) -> Tensor:
    """int64 (B, T): the examples in seeded order, one after another, cut into full windows.

    At most `samples` windows and at least one, which is shorter if all the text is; a last, incomplete one is left out.
    """
    order = random.Random(f"windows/{seed}").sample(range(len(examples)), len(examples))
    wanted = samples * length
    ids: list[int] = []
    for index in order:
        ids += examples[index].ids
        if len(ids) >= wanted:
            break
    width = min(length, len(ids))
    rows = min(samples, len(ids) // width)
    return torch.tensor(ids[: rows * width], dtype=torch.int64).view(rows, width)
