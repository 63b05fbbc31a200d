"""Completes the generated description by what FastAPI cannot see: problems have one schema and one media type
everywhere, and what people ask of a job has a schema too.
"""

from collections.abc import Iterator
from typing import Any

from bitsmith_core.spec import JobRequest
from fastapi import FastAPI

from bitsmith_api.errors import ProblemDocument

_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Add what `errors.documented` refers to."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problem(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _with_problem(description: dict[str, Any]) -> dict[str, Any]:
    problem = ProblemDocument.model_json_schema(ref_template=_REF)
    schemas = description["components"]["schemas"]
    _drop_generated_422(description)
    _drop_null_parameters(description)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    request = JobRequest.model_json_schema(ref_template=_REF)
    for name, schema in request.pop("$defs").items():
        schemas.setdefault(name, schema)
    schemas["JobRequest"] = request
    return description


def _drop_generated_422(description: dict[str, Any]) -> None:
    """FastAPI's own, which it adds to every route with a parameter: here a bad parameter answers with a problem."""
    for operation in _operations(description):
        if "application/json" in operation["responses"].get("422", {}).get("content", {}):
            del operation["responses"]["422"]


def _drop_null_parameters(description: dict[str, Any]) -> None:
    """None means that the parameter is left out: what an address or a header holds is text, and null is none."""
    for operation in _operations(description):
        for parameter in operation.get("parameters", []):
            parameter["schema"] = _without_null(parameter["schema"])


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = schema.get("anyOf", [])
    kinds = [choice for choice in choices if choice != {"type": "null"}]
    if len(kinds) == len(choices):
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


def _operations(description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (operation for operations in description["paths"].values() for operation in operations.values())
