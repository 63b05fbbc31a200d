"""`bitsmith backup`, `restore` and `verify-backup`: the whole installation to a folder, and back."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from bitsmith_client.cli.connection import State
from bitsmith_client.lab import programs
from bitsmith_client.lab.state import DEFAULT_FOLDER, LabState

Folder = Annotated[Path, typer.Argument(file_okay=False, help="Where snapshots are; on a disk of its own.")]
Snapshot = Annotated[str | None, typer.Option("--snapshot", help="Its name [default: the newest].")]


def add_to(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)
    app.command("verify-backup")(verify)


def backup(folder: Folder, state: State = DEFAULT_FOLDER) -> None:
    """Write all rows and objects of the installation to a folder; it may be at work meanwhile."""
    _run(["backup", str(folder)], state)


def restore(folder: Folder, snapshot: Snapshot = None, state: State = DEFAULT_FOLDER) -> None:
    """Put a snapshot back into an empty database and store. Nothing of the platform may run but the two."""
    _run(["restore", str(folder), *_named(snapshot)], state)


def verify(folder: Folder, snapshot: Snapshot = None, state: State = DEFAULT_FOLDER) -> None:
    """Whether a snapshot is whole; asks no server."""
    _run(["verify", str(folder), *_named(snapshot)], state)


def _named(snapshot: str | None) -> list[str]:
    return [] if snapshot is None else ["--snapshot", snapshot]


def _run(arguments: list[str], state: Path) -> None:
    """BITSMITH_DATABASE_URL and BITSMITH_STORAGE_* say of what; without them, the lab beside this folder."""
    lab = None if "BITSMITH_DATABASE_URL" in os.environ else LabState(state).load()
    environment = os.environ | (programs.environment(lab) if lab is not None else {})
    command = [sys.executable, "-P", "-m", "bitsmith_backup", *arguments]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)
