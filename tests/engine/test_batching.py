"""What batches promise: every example once, reproducibly, and each learned token predicted from the one before."""

import torch
from bitsmith_engine.data.batching import by_length, collate, epoch_order
from bitsmith_engine.data.examples import Example
from hypothesis import given
from hypothesis import strategies as st

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9))
def test_an_epoch_has_every_example_once(lengths: list[int], batch_size: int) -> None:
    batches = epoch_order(lengths, batch_size, seed=0, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in batches)
    assert batches == epoch_order(lengths, batch_size, seed=0, epoch=0)


@given(LENGTHS, st.integers(1, 200))
def test_scoring_batches_hold_every_example_once_within_the_tokens(lengths: list[int], batch_tokens: int) -> None:
    batches = by_length(lengths, batch_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens


def test_another_epoch_has_another_order() -> None:
    lengths = list(range(40))
    assert epoch_order(lengths, 4, seed=0, epoch=0) != epoch_order(lengths, 4, seed=0, epoch=1)


def test_batches_without_lengths_are_plain_draws() -> None:
    first, second = epoch_order([0] * 40, 20, seed=0, epoch=0)
    assert first != sorted(first)
    assert min(first) < 10
    assert max(first) >= 30
    assert len(second) == 20


def test_a_batch_predicts_each_learned_token_from_the_one_before() -> None:
    short = Example((5, 6, 7), (False, False, True), 2, "", False)
    long = Example((1, 2, 3, 4, 9), (True, False, True, True, False), 2, "", False)
    batch = collate([short, long], torch.device("cpu"))
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 0, 0], [1, 2, 3, 4, 9]]
    found = zip(batch.row_A.tolist(), batch.column_A.tolist(), batch.target_A.tolist(), strict=True)
    # Nothing comes before a row's first token that it could be predicted from.
    assert list(found) == [(0, 1, 7), (1, 1, 3), (1, 2, 4)]
    assert (batch.num_learned, batch.num_tokens) == (3, 10)
