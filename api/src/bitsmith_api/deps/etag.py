"""Strong ETags of things that people change, so that nobody overwrites what they have not seen.

A job's ETag is the version of what people may change (priority, metadata, wishes), not of its progress: a change is
refused for another's change, not for a step that the engine took meanwhile.
"""

import re
from typing import Annotated

from bitsmith_core.errors import Problem
from fastapi import Depends, Header

from bitsmith_api.errors import InvalidRequest

ETAG_HEADERS = {"ETag": {"description": "the version, for `If-Match`", "schema": {"type": "string"}}}


def etag(version: int) -> str:
    return f'"{version}"'


async def _version(
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="the ETag as last seen; 412 if it changed since")
    ] = None,
) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    match = re.fullmatch(r'\s*"([0-9]{1,9})"\s*', if_match)
    if match is None:
        detail = f'{if_match!r} is no ETag of ours; send one as it came, such as "3" with its quotes, or *'
        problem = Problem(pointer="header If-Match", code="bad_etag", detail=detail)
        raise InvalidRequest(f"If-Match: {detail}", [problem])
    return int(match[1])


IfMatch = Annotated[int | None, Depends(_version)]
"""The version that the client saw; None: whichever it is."""
