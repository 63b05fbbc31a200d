"""What a list of models is narrowed to and sorted by: typed, repeatable, ranges in brackets."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from bitsmith_core.ids import FileId, JobId
from bitsmith_core.registry.filters import Range, Sort, VersionFilter
from fastapi import Depends, Query
from fastapi.requests import Request

from bitsmith_api.deps.filters import Time, bad_filter, moment, without_nul

MOST_TASKS = 16  # whose scores one request may filter by; each is a join

_SCORE = re.compile(r"score\[([^\[\]\x00]{1,100})\]\[(gte|lte)\]")

SCORE_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "score",
            "in": "query",
            "description": "what the version scores in a task, by its newest evaluation: `score[piqa][gte]=0.7`, "
            "`score[perplexity][lte]=12`",
            "style": "deepObject",
            "explode": True,
            "schema": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "properties": {"gte": {"type": "number"}, "lte": {"type": "number"}},
                },
            },
        }
    ]
}
"""OpenAPI's word for what FastAPI cannot see."""

Texts = Annotated[list[str] | None, Query(max_length=100)]
Bits = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int | None, Query(ge=0, lt=2**63)]


def _filter(
    request: Request,
    q: Annotated[str, Query(max_length=200, description="in the name, the base model or a tag")] = "",
    base_model: Annotated[Texts, Query(description="repeat it for several")] = None,
    scheme: Annotated[Texts, Query(description="of the quantization; repeat it for several")] = None,
    method: Annotated[
        list[Literal["qsft", "quantize", "lora", "qlora"]] | None, Query(description="repeat it for several")
    ] = None,
    task: Annotated[Texts, Query(description="what the model is for; repeat it for several")] = None,
    licence: Annotated[Texts, Query(description="repeat it for several")] = None,
    tag: Annotated[Texts, Query(description="repeat it: all must be there")] = None,
    dataset: Annotated[Texts, Query(description="id of the training file; repeat it for several")] = None,
    job: Annotated[Texts, Query(description="id of the job that published it; repeat it for several")] = None,
    bpw_from: Annotated[Bits, Query(alias="bpw[gte]", description="`bpw_effective`")] = None,
    bpw_until: Annotated[Bits, Query(alias="bpw[lte]", description="`bpw_effective`")] = None,
    bytes_from: Annotated[Bytes, Query(alias="size_bytes[gte]", description="`weights_bytes`")] = None,
    bytes_until: Annotated[Bytes, Query(alias="size_bytes[lte]", description="`weights_bytes`")] = None,
    created_from: Annotated[Time, Query(alias="created_at[gte]", description="unix seconds")] = None,
    created_until: Annotated[Time, Query(alias="created_at[lte]", description="unix seconds")] = None,
) -> VersionFilter:
    return VersionFilter(
        text=without_nul("q", q),
        base_models=_texts("base_model", base_model),
        schemes=_texts("scheme", scheme),
        methods=method or (),
        tasks=_texts("task", task),
        licences=_texts("licence", licence),
        tags=_texts("tag", tag),
        datasets=[FileId(text) for text in _texts("dataset", dataset)],
        jobs=[JobId(text) for text in _texts("job", job)],
        bpw=Range(at_least=bpw_from, at_most=bpw_until),
        size_bytes=Range(at_least=bytes_from, at_most=bytes_until),
        scores=_scores(request),
        created_from=moment(created_from),
        created_until=moment(created_until, microseconds=999_999),
    )


FromBrowsing = Annotated[VersionFilter, Depends(_filter)]


def _sort(
    sort: Annotated[
        str,
        Query(
            max_length=120,
            description="`name`, `created_at`, `size_bytes`, `bpw` or `score:TASK`; a `-` before it turns it: "
            "`-score:piqa` begins with the best. Models without it come last",
        ),
    ] = "name",
) -> Sort:
    try:
        return Sort.parsed(without_nul("sort", sort))
    except ValueError as error:
        raise bad_filter("sort", str(error)) from error


FromSort = Annotated[Sort, Depends(_sort)]


def _texts(name: str, values: Sequence[str] | None) -> list[str]:
    return [without_nul(name, value) for value in values or ()]


def _scores(request: Request) -> dict[str, Range]:
    ends: dict[str, dict[str, float]] = {}
    for name, value in request.query_params.multi_items():
        if name != "score" and not name.startswith("score["):
            continue
        match = _SCORE.fullmatch(name)
        if match is None:
            raise bad_filter(name, "write score[TASK][gte]=NUMBER or score[TASK][lte]=NUMBER")
        task, end = match.groups()
        if end in ends.setdefault(task, {}):
            raise bad_filter(name, "an end has one value; ask for it once")
        ends[task][end] = _number(name, value)
    if len(ends) > MOST_TASKS:
        raise bad_filter("score", f"{len(ends)} tasks are too many at once; {MOST_TASKS} are not")
    return {task: Range(at_least=found.get("gte"), at_most=found.get("lte")) for task, found in ends.items()}


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise bad_filter(name, f"{text!r} is not a number")
    return number
