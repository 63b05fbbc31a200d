"""Which server a command talks to: --url and --key, BITSMITH_URL and BITSMITH_API_KEY, or the lab of this folder."""

from pathlib import Path
from typing import Annotated

import typer

from bitsmith_client.lab.state import DEFAULT_FOLDER, LabState
from bitsmith_client.sdk import Bitsmith

Url = Annotated[str | None, typer.Option("--url", envvar="BITSMITH_URL", help="The server, e.g. http://host:8000.")]
Key = Annotated[str | None, typer.Option("--key", envvar="BITSMITH_API_KEY", help="Its API key.", show_envvar=True)]
State = Annotated[Path, typer.Option("--state", envvar="BITSMITH_STATE", help="State folder of a lab (`bitsmith up`).")]


def connect(url: str | None, key: str | None, state: Path = DEFAULT_FOLDER, *, project: str | None = None) -> Bitsmith:
    """Raises typer.BadParameter: neither the arguments nor a lab say where."""
    lab = LabState(state).load()
    # The lab's key is for the lab: it must not travel to a server that somebody named.
    if lab is not None and (url is None or url.rstrip("/") == lab.url):
        return Bitsmith(lab.url, key or lab.api_key, project=project)
    if url is None:
        raise typer.BadParameter(
            f"no server is known: start one with `bitsmith up` ({state} holds none yet), or give --url and --key"
        )
    if key is None:
        raise typer.BadParameter(f"no key for {url} is known: give --key or set BITSMITH_API_KEY")
    return Bitsmith(url, key, project=project)
