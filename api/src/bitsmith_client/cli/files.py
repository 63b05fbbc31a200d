"""`bitsmith files`: data files up, down, listed, deleted."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bitsmith_client import show
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER

_PLAIN = "list"


class _FilesAreTheDefault(TyperGroup):
    """`bitsmith files` lists and `bitsmith files a.jsonl` uploads; rm and content are words of their own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # ctx is typed by a private module of typer
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = [_PLAIN, *args]
        return super().parse_args(ctx, args)


files = typer.Typer(cls=_FilesAreTheDefault, help="Upload data files, or list, download and delete them.")


@files.command(_PLAIN)
def upload_or_list(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[JSONL]...", exists=True, dir_okay=False)] = None,
    purpose: Annotated[
        str | None, typer.Option(help="fine-tune or evals; a list shows both [default for uploads: fine-tune]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Upload these files, or list those that are there."""
    with connect(url, key, state) as bitsmith:
        if paths:
            found = [bitsmith.files.upload(path, purpose=purpose or "fine-tune") for path in paths]
        else:
            found = bitsmith.files.list(limit=limit, purpose=purpose)
    echo_list(found, show.files_table, empty="no files yet", as_json=as_json)


@files.command("content")
def content(
    file: Annotated[str, typer.Argument(metavar="FILE-ID")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="[default: the file's own name]")] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Download a file, verified."""
    with connect(url, key, state) as bitsmith:
        # Of the name only its last part, wherever the server says it belongs.
        path = output or Path(Path(bitsmith.files.get(file).filename).name)
        if path.exists():
            raise typer.BadParameter(f"{path} is there already; name another with --output")
        bitsmith.files.content(file, path)
    typer.echo(path)


@files.command("rm")
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="FILE-ID...")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Delete files that no job needs."""
    with connect(url, key, state) as bitsmith:
        for file in ids:
            bitsmith.files.delete(file)
            typer.echo(f"{file} is deleted")
