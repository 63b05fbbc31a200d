"""What the data promise: the chat template's text, marks on the assistant's tokens only, and every loss told."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from bitsmith_core.spec import Record, Turn
from bitsmith_engine.data.batching import by_length, collate, epoch_order
from bitsmith_engine.data.examples import Example, encode, load_examples
from bitsmith_engine.errors import BadData
from hypothesis import given
from hypothesis import strategies as st
from toy_model import toy_tokenizer

TOKENIZER: Any = toy_tokenizer()


class Notes:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def progress(self, done: int, total: int, metrics: object = None) -> None: ...

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self.messages.append(message)


def conversation(*texts: str) -> Record:
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    return Record(messages=tuple(Turn(role=roles[index % 2], content=text) for index, text in enumerate(texts)))


def text_of(ids: tuple[int, ...]) -> str:
    return str(TOKENIZER.decode(list(ids)))


def learned_text(example: Example) -> str:
    return text_of(tuple(token for token, mark in zip(example.ids, example.learned, strict=True) if mark))


def test_only_the_answer_and_its_end_are_learned() -> None:
    example = encode(conversation("two?", "even"), TOKENIZER, 100)
    assert text_of(example.ids) == "<s>user: two?<end>\n<s>assistant: even<end>"
    assert learned_text(example) == "even<end>"
    assert text_of(example.prompt_ids) == "<s>user: two?<end>\n<s>assistant: "
    assert text_of(example.answer_ids) == "even<end>"


def test_every_answer_of_a_conversation_is_learned() -> None:
    example = encode(conversation("two?", "even", "three?", "odd"), TOKENIZER, 100)
    assert learned_text(example) == "even<end>odd<end>"
    assert text_of(example.answer_ids) == "odd<end>"
    whole = TOKENIZER.apply_chat_template(
        [
            {"role": turn.role, "content": turn.content}
            for turn in conversation("two?", "even", "three?", "odd").messages
        ],
        tokenize=False,
    )
    assert text_of(example.ids) == whole.rstrip()


def test_a_tokenizer_without_a_template_gets_the_plain_form() -> None:
    plain: Any = toy_tokenizer()
    plain.chat_template = None
    example = encode(conversation("two?", "even"), plain, 100)
    assert text_of(example.ids) == "<s>User: two?\nAssistant: even<end>"
    assert learned_text(example) == "even<end>"


def test_long_examples_are_cut_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    rows = [("a?", "b"), ("a?", "b" * 90), ("a" * 90, "b")]
    file.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows))
    notes = Notes()
    examples = load_examples(file, TOKENIZER, max_length=64, observer=notes)
    assert [example.is_cut for example in examples] == [False, True]
    assert all(len(example.ids) <= 64 for example in examples)
    assert len(notes.messages) == 2
    assert "1 of 3 examples are longer than 64 tokens" in notes.messages[0]
    assert "1 of 3 examples were left out" in notes.messages[1]


def test_a_file_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text(json.dumps({"prompt": "a" * 90, "completion": "b"}) + "\n")
    with pytest.raises(BadData, match="raise max_length"):
        load_examples(file, TOKENIZER, max_length=64, observer=Notes())


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\nnonsense\n')
    with pytest.raises(BadData, match=r"training\.jsonl: line 2"):
        load_examples(file, TOKENIZER, max_length=64, observer=Notes())


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


def test_a_batch_predicts_each_learned_token_from_the_one_before() -> None:
    import torch

    examples = [encode(conversation("two?", answer), TOKENIZER, 100) for answer in ("even", "an even number")]
    batch = collate(examples, torch.device("cpu"))
    found: list[list[int]] = [[], []]
    for row, column, target in zip(batch.row_A, batch.column_A, batch.target_A, strict=True):
        assert batch.tokens_BT[row, column + 1] == target
        found[int(row)].append(int(target))
    assert [text_of(tuple(ids)) for ids in found] == ["even<end>", "an even number<end>"]
