"""Eval packs: the documents of a benchmark as JSONL, with the columns that its dataset has on the hub.

The table of columns for people is docs/eval-packs.md. A pack is read and checked whole before anything is computed.
Other columns are allowed and dropped, so that what is scored depends on these alone.
"""

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from bitsmith_core.errors import InvalidFile
from bitsmith_core.spec import BenchmarkTask, TaskName, parse_object, read_lines
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitsmith_engine.errors import BadData

Text = Annotated[str, Field(min_length=1)]
Binary = Annotated[int, Field(ge=0, le=1)]


class Document(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    group_column: ClassVar[str | None] = None  # documents are scored apart for each value of this column
    has_fixed_shots: ClassVar[bool] = False  # the first few of the few-shot examples, not drawn ones


class BoolQ(Document):
    passage: Text
    question: Text
    label: Binary


class Problem(Document):
    question: Text
    options: Annotated[list[Text], Field(min_length=4, max_length=4)]
    answer: Literal["A", "B", "C", "D"]


class Race(Document):
    article: Text
    problems: Text  # a Python literal: a list of questions about the article, the last of which is asked

    @model_validator(mode="after")
    def _holds_problems(self) -> Self:
        try:
            problems = ast.literal_eval(self.problems)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise ValueError("problems is not the text of a Python list") from error
        if not isinstance(problems, list) or not problems:
            raise ValueError("problems is not a list with at least one question")
        for number, problem in enumerate(problems, start=1):
            try:
                Problem.model_validate(problem)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"question {number} of problems: {place}: {first['msg']}") from error
        return self


class Choices(Document):
    text: Annotated[list[Text], Field(min_length=2)]
    label: list[Text]


class Arc(Document):
    question: Text
    choices: Choices
    answerKey: Text

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Self:
        _check_key(self.choices, self.answerKey)
        return self


class WinoGrande(Document):
    sentence: Annotated[str, Field(pattern="_")]  # the gap
    option1: Text
    option2: Text
    answer: Literal["1", "2"]


class HellaSwag(Document):
    activity_label: str
    ctx_a: str
    ctx_b: str
    endings: Annotated[list[Text], Field(min_length=4, max_length=4)]
    label: Literal["0", "1", "2", "3"]


class Piqa(Document):
    goal: Text
    sol1: Text
    sol2: Text
    label: Binary


class WiC(Document):
    sentence1: Text
    sentence2: Text
    start1: Annotated[int, Field(ge=0)]  # of the word, in characters of sentence1
    end1: Annotated[int, Field(ge=1)]
    label: Binary

    @model_validator(mode="after")
    def _word_is_in_the_sentence(self) -> Self:
        if not self.start1 < self.end1 <= len(self.sentence1):
            raise ValueError(f"start1 {self.start1} and end1 {self.end1} cut no word out of sentence1")
        return self


class Anli(Document):
    premise: Text
    hypothesis: Text
    label: Annotated[int, Field(ge=0, le=2)]


class OpenBookQA(Document):
    question_stem: Text
    choices: Choices
    answerKey: Text

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> Self:
        _check_key(self.choices, self.answerKey.lstrip())
        return self


class Mmlu(Document):
    group_column = "subject"
    has_fixed_shots = True

    question: Text
    subject: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    choices: Annotated[list[Text], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]


DOCUMENTS: Mapping[TaskName, type[Document]] = {
    "boolq": BoolQ,
    "race": Race,
    "arc_easy": Arc,
    "arc_challenge": Arc,
    "winogrande": WinoGrande,
    "hellaswag": HellaSwag,
    "piqa": Piqa,
    "wic": WiC,
    "anli_r1": Anli,
    "anli_r2": Anli,
    "anli_r3": Anli,
    "openbookqa": OpenBookQA,
    "mmlu": Mmlu,
}

Doc = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Documents scored together: all of a pack, or those of one subject."""

    name: str  # what lm_eval calls this task: boolq, mmlu_anatomy
    docs: tuple[Doc, ...]
    shots: tuple[Doc, ...] | None  # where few-shot examples come from; None: from docs, the asked one excepted
    limit: int  # documents scored, the first ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A task whose packs have been read and found good."""

    task: TaskName
    num_fewshot: int
    groups: tuple[Group, ...]

    @property
    def num_docs(self) -> int:
        return sum(group.limit for group in self.groups)

    @property
    def label(self) -> str:
        """Its name among scores: boolq, mmlu 5-shot."""
        return f"{self.task} {self.num_fewshot}-shot" if self.num_fewshot else self.task


def read_benchmarks(tasks: Sequence[BenchmarkTask], packs: Path) -> tuple[Benchmark, ...]:
    """Read and check everything the spec's benchmarks need from <packs>/<file id>.jsonl.

    Raises:
        BadData: a pack is missing, or a line is not a document of its task (it names the line), or there are fewer
            documents than few-shot examples need.
    """
    return tuple(_read_benchmark(task, packs) for task in tasks)


def read_pack(file: Path, task: TaskName) -> list[Doc]:
    """The task's documents, reduced to the columns that it uses.

    Raises:
        BadData: naming the first bad line.
    """
    document = DOCUMENTS[task]
    try:
        with file.open("rb") as lines:
            return list(read_lines(lines, partial(_parse, document)))
    except InvalidFile as error:
        raise BadData(f"eval pack {file.name} for {task}: {error}; its columns are in docs/eval-packs.md") from error
    except FileNotFoundError as error:
        raise BadData(f"eval pack {file.name} for {task} is missing from the inputs") from error


def _parse(document: type[Document], line: bytes) -> Doc:
    value = parse_object(line)
    lacking = [name for name in document.model_fields if name not in value]
    if lacking:
        raise ValueError(f"lacks {', '.join(lacking)} (it has {', '.join(sorted(value)) or 'nothing'})")
    return document.model_validate(value).model_dump()


def _check_key(choices: Choices, key: str) -> None:
    if len(choices.text) != len(choices.label):
        raise ValueError(f"choices has {len(choices.text)} texts and {len(choices.label)} labels")
    if key not in choices.label:
        raise ValueError(f"answerKey {key!r} is none of the labels {choices.label}")


def _read_benchmark(task: BenchmarkTask, packs: Path) -> Benchmark:
    name = f"{task.file}.jsonl"
    docs = read_pack(packs / name, task.task)
    shots = None if task.fewshot_file is None else read_pack(packs / f"{task.fewshot_file}.jsonl", task.task)
    scored = _by_group(docs[: task.limit], task.task)
    docs_of, shots_of = _by_group(docs, task.task), None if shots is None else _by_group(shots, task.task)
    groups = tuple(
        Group(
            name=group,
            docs=tuple(docs_of[group]),
            shots=None if shots_of is None else tuple(shots_of.get(group, ())),
            limit=len(scored[group]),
        )
        for group in sorted(scored)
    )
    for group in groups:
        available = _fewest_shots(group, task.task)
        if available < task.num_fewshot:
            source = task.fewshot_file or task.file
            raise BadData(
                f"eval pack {source}.jsonl for {task.task}: num_fewshot is {task.num_fewshot}, and {group.name} has "
                f"{available} documents to show besides the one that is asked; add some, or lower num_fewshot"
            )
    return Benchmark(task=task.task, num_fewshot=task.num_fewshot, groups=groups)


def _by_group(docs: Sequence[Doc], task: TaskName) -> dict[str, list[Doc]]:
    column = DOCUMENTS[task].group_column
    groups: dict[str, list[Doc]] = {}
    for doc in docs:
        groups.setdefault(task if column is None else f"{task}_{doc[column]}", []).append(doc)
    return groups


def _fewest_shots(group: Group, task: TaskName) -> int:
    """Documents left to show when copies of the asked one are taken away, in the worst case."""
    shots = Counter(_digest(doc) for doc in (group.docs if group.shots is None else group.shots))
    copies = max(shots[_digest(doc)] for doc in group.docs[: group.limit])
    # lm_eval draws one more than it shows, in case it draws the asked one.
    return sum(shots.values()) - max(copies, 0 if DOCUMENTS[task].has_fixed_shots else 1)


def _digest(doc: Doc) -> bytes:
    return hashlib.sha256(json.dumps(doc, sort_keys=True).encode()).digest()
