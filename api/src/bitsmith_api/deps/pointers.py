"""From pydantic's error locations to JSON pointers into what the client sent. Pure.

A location holds more than the path: the tag of each discriminated union it went through, and a marker for
keys. The client sent neither, so they are left out by walking the model along with the location.
"""

from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from bitsmith_core.errors import Problem
from pydantic import BaseModel
from pydantic_core import ErrorDetails

_NOT_AN_OBJECT = {"model_type", "model_attributes_type", "dict_type"}


def problems_of(model: type[BaseModel], errors: Iterable[ErrorDetails]) -> list[Problem]:
    """Each error with the place in the request, in words a client knows."""
    return [_problem(model, error) for error in errors]


def _problem(model: type[BaseModel], error: ErrorDetails) -> Problem:
    path, parent = _walk(model, error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    match kind:
        case "missing":
            code, detail = "missing", "this field is required"
        case "extra_forbidden":
            known = ", ".join(parent.model_fields) if parent else "none"
            code, detail = "unknown_field", f"there is no such field; known here: {known}"
        case "union_tag_invalid":
            path = [*path, context["discriminator"].strip("'")]
            code, detail = "unknown_choice", f"{context['tag']!r} is not one of {context['expected_tags']}"
        case "union_tag_not_found":
            name = context["discriminator"].strip("'")
            code, detail = "missing", f"the field {name!r} is required here, to say which kind this is"
        case _ if kind in _NOT_AN_OBJECT:
            code, detail = "not_an_object", "expected a JSON object"
        case _:
            code, detail = kind, error["msg"].removeprefix("Value error, ")
    return Problem(pointer="".join(f"/{_escaped(part)}" for part in path), code=code, detail=detail)


def _walk(model: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], type[BaseModel] | None]:
    """The path a client would write, and the model that holds its last part."""
    path: list[str] = []
    here: type[BaseModel] | None = model
    parent = here
    parts = iter(location)
    for part in parts:
        if part == "[key]":
            break
        path.append(str(part))
        parent = here
        field = here.model_fields.get(part) if here is not None and isinstance(part, str) else None
        if field is None:
            here = None
            continue
        members = _models_in(field.annotation)
        if isinstance(field.discriminator, str):
            tag = next(parts, None)
            members = [member for member in members if tag in _tags(member, field.discriminator)]
        here = members[0] if len(members) == 1 else None
    return path, parent


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType):
        return [model for member in get_args(annotation) for model in _models_in(member)]
    return []


def _tags(model: type[BaseModel], discriminator: str) -> tuple[Any, ...]:
    return get_args(model.model_fields[discriminator].annotation)


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
