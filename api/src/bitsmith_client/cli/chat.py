"""`bitsmith chat`: talk to a published model in the terminal."""

import sys
from contextlib import closing
from typing import Annotated, Any

import typer

from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.lab.state import DEFAULT_FOLDER
from bitsmith_client.sdk import ApiError, Bitsmith
from bitsmith_client.sdk.chat import Ending

CUT_SHORT = "[cut off at the token limit]"


def chat(
    name: Annotated[str, typer.Argument(metavar="NAME[@N]")],
    prompt: Annotated[
        str | None, typer.Argument(help="One question; without it, or from a pipe, a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0: always the likeliest [default: 1].")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and question give the same answer.")] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Talk to a published model. An empty line or Ctrl-D ends; Ctrl-C stops an answer."""
    asked = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    settings = {name: value for name, value in asked.items() if value is not None}
    conversation: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    with connect(url, key, state) as bitsmith:
        if prompt is not None:
            _answer(bitsmith, name, [*conversation, {"role": "user", "content": prompt}], settings)
            return
        while question := _question():
            conversation.append({"role": "user", "content": question})
            try:
                said = _answer(bitsmith, name, conversation, settings)
            except ApiError as error:
                if not sys.stdin.isatty():
                    raise
                typer.echo(f"error: {error}", err=True)
                conversation.pop()
                continue
            conversation.append({"role": "assistant", "content": said})


def _question() -> str:
    if sys.stdin.isatty():
        typer.echo("> ", nl=False)
    return sys.stdin.readline().strip()


def _answer(bitsmith: Bitsmith, model: str, conversation: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Print it as it comes; Ctrl-C stops it and keeps what was said."""
    said: list[str] = []
    ending = Ending()
    with closing(bitsmith.chat.stream(model, conversation, ending=ending, **settings)) as texts:
        try:
            for text in texts:
                typer.echo(text, nl=False)
                sys.stdout.flush()
                said.append(text)
        except KeyboardInterrupt:
            pass
    typer.echo()
    if ending.finish_reason == "length":
        typer.echo(CUT_SHORT, err=True)
    return "".join(said)
