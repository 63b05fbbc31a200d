"""What commands print: tables for people, JSON for programs."""

import json
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

PIPE_COLUMNS = 240

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]

T = TypeVar("T", bound=BaseModel)


def console() -> Console:
    """Made when needed: tests and pipes change where stdout goes. A pipe has no width to wrap at."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def echo_json(found: BaseModel | Sequence[BaseModel]) -> None:
    if isinstance(found, BaseModel):
        typer.echo(found.model_dump_json(indent=2))
    else:
        typer.echo(json.dumps([item.model_dump(mode="json") for item in found], indent=2))


def echo_list(found: Sequence[T], table: Callable[[Sequence[T]], Table], *, empty: str, as_json: bool) -> None:
    """
    Args:
        empty: what to say instead of a table without rows.
    """
    if as_json:
        echo_json(found)
    else:
        console().print(table(found) if found else empty)
