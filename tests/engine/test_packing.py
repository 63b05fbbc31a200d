"""What packing promises: no padding, no example cut, and the loss and gradients that each example has alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsmith_engine.data.batching import collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.data.packing import balanced, pack
from bitsmith_engine.models.forward import Places, hidden_at, separate_documents, summed_loss
from bitsmith_engine.nn.swap import attach_sink
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_training import CPU, toy
from transformers import AutoModelForCausalLM, MistralConfig


class Sums:
    """Adds up gradients by layer."""

    def __init__(self) -> None:
        self.of: dict[str, Tensor] = {}

    def choose_tokens(self, importance: Callable[[], Tensor]) -> None:
        return None

    def receive(self, name: str, grad_NK: Tensor) -> None:
        self.of[name] = self.of.get(name, torch.zeros_like(grad_NK)) + grad_NK


def an_example(length: int, first: int) -> Example:
    ids = tuple((first + 7 * place) % 259 for place in range(length))
    return Example(ids, tuple(place % 3 != 0 for place in range(length)), 1, "", False)


EXAMPLES = [an_example(length, first) for length, first in ((5, 3), (40, 50), (2, 9), (17, 120))]


def losses_of(model: object, examples: list[Example]) -> float:
    batch = pack(examples, CPU.device)
    places = Places(batch.row_A, batch.column_A, batch.target_A)
    loss = summed_loss(model, hidden_at(model, batch.tokens_BT, places, documents=batch.documents), batch.target_A)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]  # torch types it not
    return loss.item()


def test_a_row_holds_every_token_once_and_predicts_what_padded_rows_predict() -> None:
    packed, padded = pack(EXAMPLES, CPU.device), collate(EXAMPLES, CPU.device)
    assert packed.tokens_BT.tolist() == [[token for example in EXAMPLES for token in example.ids]]
    assert packed.documents == (5, 40, 2, 17)
    assert packed.target_A.tolist() == padded.target_A.tolist()
    assert packed.tokens_BT[0, packed.column_A + 1].tolist() == packed.target_A.tolist()
    assert packed.num_tokens == 64 < padded.num_tokens


def test_loss_and_gradients_are_those_of_padded_rows(toy_inputs: Path) -> None:
    model = toy(toy_inputs).model
    apart, together = Sums(), Sums()

    attach_sink(model, apart)
    batch = collate(EXAMPLES, CPU.device)
    hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
    expected = summed_loss(model, hidden_AH, batch.target_A)
    expected.backward()  # type: ignore[no-untyped-call]  # torch types it not

    attach_sink(model, together)
    with separate_documents(model):
        loss = losses_of(model, EXAMPLES)

    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert len(together.of) == 14
    for name, gradient in together.of.items():
        torch.testing.assert_close(gradient, apart.of[name], rtol=1e-3, atol=1e-4)


def test_no_example_sees_another(toy_inputs: Path) -> None:
    model = toy(toy_inputs).model
    first, second, other = EXAMPLES[1], EXAMPLES[3], an_example(40, 11)
    with separate_documents(model), torch.no_grad():
        alone = losses_of(model, [second])
        for neighbour in (first, other):
            both, neighbours = losses_of(model, [neighbour, second]), losses_of(model, [neighbour])
            assert both - neighbours == pytest.approx(alone, rel=1e-5)


def test_a_window_of_attention_stays_one() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        batch = collate(EXAMPLES, CPU.device)
        hidden_AH = hidden_at(model, batch.tokens_BT, Places(batch.row_A, batch.column_A, batch.target_A))
        expected = summed_loss(model, hidden_AH, batch.target_A).item()
        with separate_documents(model):
            assert losses_of(model, EXAMPLES) == pytest.approx(expected, rel=1e-5)


def test_the_model_computes_as_before_afterwards(toy_inputs: Path) -> None:
    model = toy(toy_inputs).model
    with separate_documents(model):
        pass
    assert model.config._attn_implementation == "sdpa"


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 2))
def test_micro_batches_hold_every_example_once_and_are_nearly_equal(lengths: list[int], most: int, spare: int) -> None:
    groups = balanced(lengths, -(-len(lengths) // most) + spare, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(group) <= most for group in groups)
    if most >= len(lengths):  # no limit in the way: no group could do with one example less and still be the largest
        totals = [sum(lengths[index] for index in group) for group in groups]
        assert max(totals) - min(totals) <= max(lengths)
