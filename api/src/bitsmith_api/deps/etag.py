"""Strong ETags of things that people change, so that nobody overwrites what they have not seen.

A job's ETag is the version of what people may change (priority, metadata, wishes), not of its progress: a change is
refused for another's change, not for a step that the engine took meanwhile.
"""

import re
from typing import Annotated

from bitsmith_core.errors import Problem
from bitsmith_core.registry.aliases import Seen
from fastapi import Depends, Header

from bitsmith_api.errors import InvalidRequest, PreconditionRequired

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

_Raw = Annotated[str | None, Header(alias="If-Match", include_in_schema=False)]


async def _required_version(version: IfMatch, if_match: _Raw = None) -> int | None:
    if if_match is None:
        raise PreconditionRequired(
            'send If-Match with the ETag as last seen, such as "3", or * to overwrite whatever is there'
        )
    return version


RequiredIfMatch = Annotated[int | None, Depends(_required_version)]
"""The same for what must not be changed unseen."""


async def _seen(
    version: IfMatch,
    if_match: _Raw = None,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="`*`: it must not be there yet")
    ] = None,
) -> Seen:
    if if_none_match is None and if_match is None:
        raise PreconditionRequired('send If-Match with the ETag as last seen, such as "3"; If-None-Match: * to make it')
    if if_none_match is None:
        return Seen(revision=version)
    if if_match is not None or if_none_match.strip() != "*":
        detail = f"{if_none_match!r} is not *, which alone makes sense here, and without If-Match"
        problem = Problem(pointer="header If-None-Match", code="bad_etag", detail=detail)
        raise InvalidRequest(f"If-None-Match: {detail}", [problem])
    return Seen(is_new=True)


FromSeen = Annotated[Seen, Depends(_seen)]
"""What the client believes of a thing that it makes or changes."""
