"""Which examples go together, and how they become rectangles.

Shape letters: B rows, T tokens per row, A learned places.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitsmith_engine.data.examples import Example

_POOL_BATCHES = 8  # sort by length within this many batches: little padding, and still a new mixture each epoch


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded on the right, or one row of documents. The token after (row, column) is to be predicted."""

    tokens_BT: Tensor
    row_A: Tensor
    column_A: Tensor
    target_A: Tensor
    documents: tuple[int, ...] | None = None  # lengths of the examples that share the one row

    @property
    def num_learned(self) -> int:
        return len(self.target_A)

    @property
    def num_tokens(self) -> int:
        return self.tokens_BT.numel()


def epoch_order(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Every example once, in batches of similar length, in an order that only seed and epoch decide."""
    chance = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    chance.shuffle(order)

    batches: list[list[int]] = []
    pool = batch_size * _POOL_BATCHES
    for start in range(0, len(order), pool):
        similar = sorted(order[start : start + pool], key=lambda index: lengths[index])
        batches += [similar[first : first + batch_size] for first in range(0, len(similar), batch_size)]
    chance.shuffle(batches)
    return batches


def by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Every example once, longest first, in batches of at most batch_tokens padded tokens (or one example)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    # Padding is 0 whatever the tokenizer says: it is never attended to and never predicted.
    width = max(len(example.ids) for example in examples)
    tokens_BT = torch.zeros(len(examples), width, dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        tokens_BT[row, : len(example.ids)] = torch.tensor(example.ids)
        for column in range(len(example.ids) - 1):
            if example.learned[column + 1]:
                rows.append(row)
                columns.append(column)
                targets.append(example.ids[column + 1])
    return Batch(
        tokens_BT.to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
        torch.tensor(targets, device=device),
    )
