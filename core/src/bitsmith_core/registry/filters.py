"""What a list of models is narrowed to and sorted by. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Self

from bitsmith_core.ids import FileId, JobId

SCORE = "score:"

_SUBJECT_OF_METHOD = {"quantize": "quantized"}
_METHOD_OF_SUBJECT = {subject: method for method, subject in _SUBJECT_OF_METHOD.items()}


def subject_of(method: str) -> str:
    """What a version made by this method is called among the subjects of its scores."""
    return _SUBJECT_OF_METHOD.get(method, method)


def method_of(subject: str) -> str:
    return _METHOD_OF_SUBJECT.get(subject, subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Both ends included; None: no end."""

    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_open(self) -> bool:
        return self.at_least is None and self.at_most is None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFilter:
    """Empty: everything. All that is named must hold; of several values of one kind, one (but every tag)."""

    text: str = ""  # in the name, the base or a tag, whatever the case
    base_models: Sequence[str] = ()
    schemes: Sequence[str] = ()
    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    licences: Sequence[str] = ()
    tags: Sequence[str] = ()
    datasets: Sequence[FileId] = ()
    jobs: Sequence[JobId] = ()
    bpw: Range = Range()
    size_bytes: Range = Range()
    scores: Mapping[str, Range] = field(default_factory=dict)  # by task
    created_from: datetime | None = None
    created_until: datetime | None = None


class SortKey(StrEnum):
    NAME = "name"
    CREATED_AT = "created_at"
    SIZE_BYTES = "size_bytes"
    BPW = "bpw"
    SCORE = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """Equals come by name; what lacks the key comes last, whichever the direction."""

    key: SortKey = SortKey.NAME
    task: str = ""  # whose score
    is_descending: bool = False

    @classmethod
    def parsed(cls, text: str) -> Self:
        """
        Raises:
            ValueError: saying what can be sorted by.
        """
        is_descending, name = text.startswith("-"), text.removeprefix("-")
        if name.startswith(SCORE) and name != SCORE:
            return cls(key=SortKey.SCORE, task=name.removeprefix(SCORE), is_descending=is_descending)
        if name in set(SortKey) - {SortKey.SCORE}:
            return cls(key=SortKey(name), is_descending=is_descending)
        raise ValueError(f"{text!r} is none of name, created_at, size_bytes, bpw, score:TASK; a - before it turns it")
