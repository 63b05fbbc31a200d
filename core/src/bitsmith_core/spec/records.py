"""One line of an uploaded file. Of a training or validation file, in any of the three shapes people have:

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    {"prompt": "…", "completion": "…"}
    {"instruction": "…", "input": "…", "output": "…"}          (Alpaca; input may be absent or empty)

All become turns; what an assistant says is learned, everything else is context. A line of an eval pack is a JSON object
with the columns of its benchmark, which only the engine knows.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from bitsmith_core.errors import InvalidFile, Problem

MAX_LINE_BYTES = 1_000_000  # a line is one example; a megabyte of text is a mistake, not an example
MAX_PROBLEMS = 20  # enough to see the pattern; a file with more is wrong throughout

T = TypeVar("T")
NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class Turn(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # hub datasets carry names, weights and tool fields

    role: Literal["system", "user", "assistant"]
    content: NonEmpty


class Record(BaseModel):
    """An example: turns that end with the assistant's."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Turn, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Self:
        if self.messages[-1].role != "assistant":
            raise ValueError(f"the last message must be the assistant's, not the {self.messages[-1].role}'s")
        return self


class _PromptCompletion(BaseModel):
    prompt: NonEmpty
    completion: NonEmpty

    def turns(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion}]


class _Alpaca(BaseModel):
    instruction: NonEmpty
    input: str = ""
    output: NonEmpty

    def turns(self) -> list[dict[str, str]]:
        question = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return [{"role": "user", "content": question}, {"role": "assistant", "content": self.output}]


def parse_object(line: bytes) -> dict[str, Any]:
    """One line of JSONL as a JSON object.

    Raises:
        ValueError: what is wrong with this line, in words.
    """
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES} bytes, which no example may be")
    if b"\0" in line:
        raise ValueError(f"byte {line.index(0)} of the line is NUL, which no text holds")
    try:
        text = line.decode()  # here: json.loads would guess an encoding from the bytes
        text = text.rstrip(" \t\r\n")  # so that the column is one of this line, not of the next
        value: Any = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} of the line is 0x{line[error.start]:02x}") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair (\\ud800 to \\udfff), which is no character") from error
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name} is no number")


def parse_record(line: bytes) -> Record:
    """One line of JSONL as a Record.

    Raises:
        ValueError: what is wrong with this line, in words (pydantic's ValidationError is one).
    """
    value = parse_object(line)
    if "messages" in value:
        return Record.model_validate({"messages": value["messages"]})
    if "prompt" in value:
        return Record.model_validate({"messages": _PromptCompletion.model_validate(value).turns()})
    if "instruction" in value:
        return Record.model_validate({"messages": _Alpaca.model_validate(value).turns()})
    raise ValueError(
        f"found the keys {sorted(value)}; expected messages, or prompt and completion, or instruction and output"
    )


def read_lines(lines: Iterable[bytes], parse: Callable[[bytes], T]) -> Iterator[T]:
    """Every parsed line of a JSONL file, lazily; blank lines are skipped.

    Args:
        parse: raises ValueError, saying what is wrong with its line.

    Raises:
        InvalidFile: after the last line, naming each bad line (the first MAX_PROBLEMS), or if there was none.
    """
    problems: list[Problem] = []
    found = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found += 1
        try:
            parsed = parse(line)
        except ValueError as error:
            problems.append(Problem(pointer=f"line {number}", code="bad_record", detail=_in_words(error)))
            if len(problems) == MAX_PROBLEMS:
                break
            continue
        if not problems:
            yield parsed
    if problems:
        raise InvalidFile(f"{problems[0].pointer}: {problems[0].detail}", problems)
    if not found:
        raise InvalidFile("the file holds no example")


def read_records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Every record of a training or validation file. Raises InvalidFile as read_lines does."""
    return read_lines(lines, parse_record)


def _in_words(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" if item["loc"] else item["msg"]
        for item in error.errors(include_url=False, include_input=False)
    )
