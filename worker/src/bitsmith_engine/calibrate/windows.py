"""The training text as windows of one length: what calibration looks at.

Shape letters: B windows, T tokens per window.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.opening import Base

_TOKENS_PER_FEATURE = 16  # of a layer's input: its Gram matrix is known well enough
_LEAST_TOKENS = 1 << 15


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


def layer_windows(base: Base, tokens_BT: Tensor) -> Tensor:
    """The first windows, as many as work on one layer by itself looks at; the text end to end has no such bound.

    awq and gptq run a decoder layer on them once for each unit, and the block-wise fit did no better with four times as
    much (docs/engine-log.md).
    """
    widest: int = max(base.config.hidden_size, base.config.intermediate_size)
    enough = max(_LEAST_TOKENS, _TOKENS_PER_FEATURE * widest)
    return tokens_BT[: max(1, enough // tokens_BT.shape[1])]
