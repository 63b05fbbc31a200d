"""Commands that steer one job and show what it leaves: pause, resume, clone, metrics, logs, checkpoints."""

import time
from typing import Annotated

import typer

from bitsmith_client import show
from bitsmith_client.cli import specs
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER

FOLLOW_EVERY_S = 2.0

JobId = Annotated[str, typer.Argument(metavar="JOB")]


def pause(job: JobId, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Give a job's worker back; it goes on from a checkpoint when it is resumed."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.pause(job)
    typer.echo(f"{job} {'is paused' if found.status == 'paused' else 'will pause after a checkpoint'}")


def resume(job: JobId, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Let a paused job go on."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.resume(job)
    typer.echo(f"{job} is {found.status}")


def clone(
    job: JobId,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="What is different; may be repeated.")
    ] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Submit a job's request again, with changes."""
    changes: specs.Json = {}
    try:
        for setting in settings or []:
            changes = specs.with_setting(changes, setting)
    except specs.BadSpec as error:
        raise typer.BadParameter(str(error)) from error
    with connect(url, key, state) as bitsmith:
        typer.echo(bitsmith.jobs.clone(job, changes).id)


def priority(
    job: JobId,
    value: Annotated[int, typer.Argument(min=-100, max=100, help="Higher goes first; 0 is usual.")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Move a waiting job forwards or back."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.change(job, priority=value)
    place = f", number {found.queue.position} in the queue" if found.queue else ""
    if found.queue and found.queue.obstacle:
        place += f"; {found.queue.obstacle}"
    typer.echo(f"{job} has priority {found.priority}{place}")


def metrics(
    job: JobId,
    names: Annotated[list[str] | None, typer.Option("--name", help="Only this; may be repeated.")] = None,
    max_points: Annotated[int, typer.Option(min=4, max=10_000, help="Of each curve.")] = 1000,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """What a job measured: first, lowest, highest and last value of each curve."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.metrics(job, names=names or (), max_points=max_points)
    echo_list(found, show.series_table, empty="nothing measured yet", as_json=as_json)


def logs(
    job: JobId,
    attempt: Annotated[int | None, typer.Option(min=1, help="[default: the newest]")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=1, max=10_000, help="Only the last lines.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """What a job's engine logged."""
    with connect(url, key, state) as bitsmith:
        text, cursor = bitsmith.jobs.logs(job, attempt=attempt, tail=tail)
        typer.echo(text, nl=False)
        while follow:
            is_over = bitsmith.jobs.get(job).is_over  # asked first: what came before the end is read below
            text, cursor = bitsmith.jobs.logs(job, attempt=attempt, after=cursor)
            typer.echo(text, nl=False)
            if is_over:
                return
            time.sleep(FOLLOW_EVERY_S)


def checkpoints(
    job: JobId, as_json: AsJson = False, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER
) -> None:
    """What a job could go on from."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.checkpoints(job, limit=100)
    echo_list(found, show.checkpoints_table, empty="no checkpoints yet", as_json=as_json)


def attempts(
    job: JobId, as_json: AsJson = False, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER
) -> None:
    """Who tried a job, and how it ended."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.attempts(job, limit=100)
    echo_list(found, show.attempts_table, empty="no attempts yet", as_json=as_json)


def add_to(app: typer.Typer) -> None:
    for command in (pause, resume, clone, priority, metrics, logs, checkpoints, attempts):
        app.command()(command)
