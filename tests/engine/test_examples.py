"""What the data promise: the chat template's text, marks on the assistant's tokens only, and every loss told."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from bitsmith_core.spec import Record, Turn
from bitsmith_engine.data.examples import Example, check_vocabulary, encode, load_and_hold_out, load_examples
from bitsmith_engine.errors import BadData, BadModel
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
    assert "raise max_length" in notes.messages[1]


def test_a_file_with_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text(json.dumps({"prompt": "a" * 90, "completion": "b"}) + "\n")
    with pytest.raises(BadData, match="raise max_length"):
        load_examples(file, TOKENIZER, max_length=64, observer=Notes())


def test_a_file_without_examples_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text("\n")
    with pytest.raises(BadData, match=r"training\.jsonl: the file holds no example"):
        load_examples(file, TOKENIZER, max_length=64, observer=Notes())


def test_tokens_that_the_weights_do_not_know_are_refused() -> None:
    example = encode(conversation("two?", "even"), TOKENIZER, 100)
    highest = max(example.ids)
    check_vocabulary([example], highest + 1)
    with pytest.raises(BadModel, match=f"token {highest}, but its weights know only tokens 0 to {highest - 1}"):
        check_vocabulary([example], highest)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\nnonsense\n')
    with pytest.raises(BadData, match=r"training\.jsonl: line 2"):
        load_examples(file, TOKENIZER, max_length=64, observer=Notes())


def test_without_a_validation_file_some_examples_are_held_out_whatever_the_length(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}?", "completion": f"{n}"}) + "\n" for n in range(240)))
    notes = Notes()
    trained, held_out = load_and_hold_out(file, TOKENIZER, max_length=64, seed=0, observer=notes)
    assert (len(trained), len(held_out)) == (228, 12)
    assert not {example.answer for example in trained} & {example.answer for example in held_out}
    assert "held out 12 of 240 examples of training.jsonl" in notes.messages[0]
    _, cut = load_and_hold_out(file, TOKENIZER, max_length=30, seed=0, observer=notes)
    assert [example.answer for example in cut] == [example.answer for example in held_out]


def test_a_file_too_small_to_hold_some_out_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "training.jsonl"
    file.write_text('{"prompt": "2?", "completion": "even"}\n')
    with pytest.raises(BadData, match=r"training.jsonl: .*needs 16 in it; there is 1: add examples"):
        load_and_hold_out(file, TOKENIZER, max_length=64, seed=0, observer=Notes())
