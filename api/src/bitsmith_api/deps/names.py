"""Models, versions and aliases as addresses name them."""

import re
from typing import Annotated

from bitsmith_core.errors import NotFound
from fastapi import Depends, Path

_NAME = r"[\w.-]{1,200}"
_NUMBER = r"[1-9][0-9]{0,8}"
_ALIAS = r"[a-z][a-z0-9_-]{0,62}"


def is_name(text: str) -> bool:
    return re.fullmatch(_NAME, text) is not None


def parsed_reference(text: str) -> tuple[str, str | None] | None:
    """(name, version or alias) of name, name@2 or name@alias; None: it is none of these. Pure."""
    match = re.fullmatch(rf"({_NAME})(?:@({_NUMBER}|{_ALIAS}))?", text)
    return None if match is None else (match[1], match[2])


async def _name(name: Annotated[str, Path(examples=["name-qsft"])]) -> str:
    if not is_name(name):
        raise NotFound(f"there is no model {name!r} in the registry")
    return name


Name = Annotated[str, Depends(_name)]


async def _reference(
    name: Annotated[str, Path(description="name, name@version or name@alias", examples=["name-qsft@1"])],
) -> tuple[str, str | None]:
    found = parsed_reference(name)
    if found is None:
        raise NotFound(f"there is no model {name!r} in the registry")
    return found


Reference = Annotated[tuple[str, str | None], Depends(_reference)]
"""A model's name, and which of its versions is meant: a number or an alias; None: all of them."""

Number = Annotated[int, Path(ge=1, lt=2**31, description="the version's number")]


async def _alias(alias: Annotated[str, Path(examples=["prod"])]) -> str:
    if re.fullmatch(_ALIAS, alias) is None:
        raise NotFound(f"there is no alias {alias!r}: a letter first, then a-z, 0-9, - and _, 63 characters at most")
    return alias


AliasName = Annotated[str, Depends(_alias)]
