"""JSONL records -> chat text -> token ids and marks on the assistant's tokens.

The text is that of the tokenizer's chat template. A tokenizer without one gets this plain form, each turn on its own
line, answers ended by the end-of-sequence token:

    User: What does os.getcwd() do?
    Assistant: Return the current working directory.</s>

Prompt and answer are tokenized apart, so an answer's tokens never depend on where they are used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bitsmith_core.errors import InvalidFile
from bitsmith_core.spec import Record, Turn, hold_out, read_records
from jinja2.exceptions import TemplateError

from bitsmith_engine.errors import BadData, BadModel
from bitsmith_engine.ports import Observer

Tokenizer = Any
"""A transformers tokenizer; its call and template methods are not typed usefully."""


class Spoken(Protocol):
    """A turn of a conversation."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Example:
    ids: tuple[int, ...]
    learned: tuple[bool, ...]  # of each token: is it the assistant's?
    answer_start: int  # where the last answer begins
    answer: str  # its text
    is_cut: bool  # the example was longer than max_length

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Everything before the last answer."""
        return self.ids[: self.answer_start]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The last answer with the token that ends it."""
        end = max(index for index, mark in enumerate(self.learned) if mark) + 1
        return self.ids[self.answer_start : end]


def load_examples(file: Path, tokenizer: Tokenizer, *, max_length: int, observer: Observer) -> list[Example]:
    """Every example of a file that still holds something to learn within max_length tokens.

    Raises:
        BadData: the file is unreadable, or nothing is left.
    """
    return _encode_all(_read(file), file.name, tokenizer, max_length, observer)


def load_and_hold_out(
    file: Path, tokenizer: Tokenizer, *, max_length: int, seed: int, observer: Observer
) -> tuple[list[Example], list[Example]]:
    """(to train on, held out): a training file's examples where there is no validation file.

    Raises:
        BadData: the file is unreadable or too small, or nothing is left of either part.
    """
    records = _read(file)
    try:
        trained, held_out = hold_out(records, seed=seed)
    except InvalidFile as error:
        raise BadData(f"{file.name}: {error}") from error
    observer.note(
        "info",
        f"held out {len(held_out)} of {len(records)} examples of {file.name}: there is no validation file, so all "
        "scores come from these, and none of them is trained on",
    )
    return (
        _encode_all(trained, file.name, tokenizer, max_length, observer),
        _encode_all(held_out, f"{file.name}, held out", tokenizer, max_length, observer),
    )


def _read(file: Path) -> list[Record]:
    try:
        with file.open("rb") as lines:
            return list(read_records(lines))
    except InvalidFile as error:
        raise BadData(f"{file.name}: {error}") from error
    except FileNotFoundError as error:
        raise BadData(f"{file.name} is missing from the inputs") from error


def _encode_all(
    records: Sequence[Record], name: str, tokenizer: Tokenizer, max_length: int, observer: Observer
) -> list[Example]:
    encoded = [encode(record, tokenizer, max_length) for record in records]
    kept = [example for example in encoded if any(example.learned[1:])]
    num_cut = sum(example.is_cut for example in kept)
    if num_cut:
        observer.note(
            "warn",
            f"{name}: {num_cut} of {len(encoded)} examples are longer than {max_length} tokens and were cut",
        )
    if len(kept) < len(encoded):
        observer.note(
            "warn",
            f"{name}: {len(encoded) - len(kept)} of {len(encoded)} examples were left out: "
            f"nothing of their answer is within the first {max_length} tokens; raise max_length to keep them",
        )
    if not kept:
        raise BadData(f"{name}: no example has any answer within {max_length} tokens; raise max_length")
    return kept


def check_vocabulary(examples: Iterable[Example], rows: int) -> None:
    """Every token has a row in the model's embedding.

    Raises:
        BadModel: one has none; on a GPU it would end the process without a word about why.
    """
    highest = max((max(example.ids) for example in examples), default=0)
    if highest >= rows:
        raise BadModel(
            f"the base's tokenizer produces token {highest}, but its weights know only tokens 0 to {rows - 1}: "
            "tokenizer and weights do not belong together; fetch both from the same source again"
        )


def encode(record: Record, tokenizer: Tokenizer, max_length: int) -> Example:
    ids: list[int] = []
    learned: list[bool] = []
    answer_start = 0
    for text, is_answer in _segments(record.messages, tokenizer):
        segment: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if is_answer:
            answer_start = len(ids)
        ids += segment
        learned += [is_answer] * len(segment)
    return Example(
        ids=tuple(ids[:max_length]),
        learned=tuple(learned[:max_length]),
        answer_start=answer_start,
        answer=record.messages[-1].content,
        is_cut=len(ids) > max_length,
    )


def _segments(turns: tuple[Turn, ...], tokenizer: Tokenizer) -> Iterable[tuple[str, bool]]:
    """The conversation's text in order, cut where the assistant begins and ends to speak."""
    segments: list[tuple[str, bool]] = []
    done = ""
    for index, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        question = render(turns[:index], tokenizer, open_answer=True)
        whole = render(turns[: index + 1], tokenizer, open_answer=False)
        if not question.startswith(done):
            # The template rewrites earlier turns (some drop old reasoning): only the last answer is as it will be used.
            segments, done = [], ""
        if not whole.startswith(question):
            raise BadData(
                "the base's chat template writes an answered conversation differently from the question that is "
                "generated from, so answers cannot be told from prompts; this base cannot be trained on conversations"
            )
        answer = whole[len(question) :]
        ended = answer.rstrip()  # the line break after the end-of-turn token is never generated
        segments += [(question[len(done) :], False), (ended, True)]
        done = question + ended
    return segments


def render(turns: Sequence[Spoken], tokenizer: Tokenizer, *, open_answer: bool) -> str:
    """The conversation's text as the model knows it.

    Args:
        open_answer: end it where the assistant begins to speak.

    Raises:
        BadData: the chat template refuses it.
    """
    if tokenizer.chat_template is None:
        return _render_plain(turns, tokenizer, open_answer=open_answer)
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer)
    except TemplateError as error:
        raise BadData(f"the base's chat template refuses a conversation: {error}") from error
    return text


def _render_plain(turns: Sequence[Spoken], tokenizer: Tokenizer, *, open_answer: bool) -> str:
    end = tokenizer.eos_token or ""
    lines = [f"{turn.role.capitalize()}: {turn.content}{end if turn.role == 'assistant' else ''}" for turn in turns]
    return (tokenizer.bos_token or "") + "\n".join(lines) + ("\nAssistant: " if open_answer else "")
