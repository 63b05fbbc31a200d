"""Several examples in one row, none cut, none padded.

    tokens   a a a b b c c c c        documents  (3, 2, 4)

What keeps them apart is models.forward.separate_documents.

Shape letters: T tokens, A learned places.
"""

from collections.abc import Sequence

import torch

from bitsmith_engine.data.batching import Batch
from bitsmith_engine.data.examples import Example


def pack(examples: Sequence[Example], device: torch.device) -> Batch:
    """One row with all examples, one after another."""
    tokens: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for example in examples:
        start = len(tokens)
        tokens += example.ids
        learned = [column for column in range(1, len(example.ids)) if example.learned[column]]
        columns += [start + column - 1 for column in learned]
        targets += [example.ids[column] for column in learned]
    column_A = torch.tensor(columns, device=device)
    return Batch(
        tokens_BT=torch.tensor([tokens], device=device),
        row_A=torch.zeros_like(column_A),
        column_A=column_A,
        target_A=torch.tensor(targets, device=device),
        documents=tuple(len(example.ids) for example in examples),
    )


def balanced(lengths: Sequence[int], groups: int, most: int) -> list[list[int]]:
    """Every position once, in that many groups of at most `most`, of nearly the same number of tokens.

    The longest first, each to the group with the fewest tokens so far: no group needs much more memory than another.
    Source: Graham 1969, Bounds on multiprocessing timing anomalies (the longest-processing-time rule).
    """
    members: list[list[int]] = [[] for _ in range(groups)]
    tokens = [0] * groups
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        with_room = [group for group in range(groups) if len(members[group]) < most]
        lightest = min(with_room, key=lambda group: tokens[group])
        members[lightest].append(index)
        tokens[lightest] += lengths[index]
    return members
