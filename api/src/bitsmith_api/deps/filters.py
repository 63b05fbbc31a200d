"""What a list of jobs is narrowed to."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from bitsmith_core.jobs import JobStatus
from bitsmith_core.jobs.queries import JobFilter
from fastapi import Depends, Query
from fastapi.requests import Request

from bitsmith_api.errors import InvalidRequest

LATEST = 253402300799  # the end of the year 9999
Time = Annotated[int | None, Query(ge=0, le=LATEST)]

_LABEL = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)

METADATA_PARAMETER: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "description": "jobs with this metadata: `metadata[team]=blue`; `metadata=null`: jobs without any",
            "style": "deepObject",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}
"""OpenAPI's word for what FastAPI cannot see."""


def _filter(
    request: Request,
    status: Annotated[list[JobStatus] | None, Query(description="repeat it to ask for several")] = None,
    model: Annotated[list[str] | None, Query(description="the base model; repeat it for several")] = None,
    priority: Annotated[list[int] | None, Query(description="repeat it for several")] = None,
    created_from: Annotated[Time, Query(alias="created_at[gte]", description="unix seconds")] = None,
    created_until: Annotated[Time, Query(alias="created_at[lte]", description="unix seconds")] = None,
) -> JobFilter:
    labels, has_no_labels = _labels(request)
    return JobFilter(
        statuses=status or (),
        models=[without_nul("model", name) for name in model or ()],
        priorities=[_bounded(value) for value in priority or ()],
        labels=labels,
        has_no_labels=has_no_labels,
        created_from=moment(created_from),
        created_until=moment(created_until, microseconds=999_999),
    )


FromFilter = Annotated[JobFilter, Depends(_filter)]


def _labels(request: Request) -> tuple[dict[str, str], bool]:
    labels: dict[str, str] = {}
    has_no_labels = False
    for name, value in request.query_params.multi_items():
        if name == "metadata":
            if value != "null":
                raise bad_filter(name, f"write metadata[key]=value, or metadata=null; not metadata={value!r}")
            has_no_labels = True
        elif (match := _LABEL.fullmatch(name)) is not None:
            if match[1] in labels:
                raise bad_filter(name, "a key has one value; ask for it once")
            labels[without_nul(name, match[1])] = without_nul(name, value)
        elif name.startswith("metadata["):
            raise bad_filter(name, "write metadata[key]=value, the key of 1 to 64 characters")
    return labels, has_no_labels


def without_nul(name: str, text: str) -> str:
    if "\0" in text:
        raise bad_filter(name, "a zero character cannot be in there")
    return text


def _bounded(priority: int) -> int:
    if not -100 <= priority <= 100:
        raise bad_filter("priority", f"{priority} is not between -100 and 100")
    return priority


def moment(seconds: int | None, *, microseconds: int = 0) -> datetime | None:
    """Times are answered in whole seconds, so an upper bound holds for all of its second."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)


def bad_filter(name: str, detail: str) -> InvalidRequest:
    return InvalidRequest.at(f"query {name}", "bad_filter", detail)
