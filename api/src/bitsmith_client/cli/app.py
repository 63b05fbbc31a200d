"""Commands. Exit statuses: 0 done, 1 the job or the request failed, 2 the command makes no sense."""

import json
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from bitsmith_client import demo as demonstration
from bitsmith_client import show
from bitsmith_client.cli import access, specs
from bitsmith_client.cli import backup as backup_commands
from bitsmith_client.cli import files as data
from bitsmith_client.cli import jobs as job_commands
from bitsmith_client.cli.chat import chat
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.evals import evals
from bitsmith_client.cli.models import models, pull
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.cli.output import console as _console
from bitsmith_client.cli.webhooks import webhooks
from bitsmith_client.cli.workers import workers
from bitsmith_client.lab.child import StartFailed
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import DEFAULT_FOLDER, LabState
from bitsmith_client.sdk import Job, SdkError
from bitsmith_client.watch import watch as watch_job

INTERRUPTED = 130


class _Commands(TyperGroup):
    """Expected failures become one message and status 1; anything else is our mistake and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:  # typed by a private module of typer
        try:
            return super().invoke(ctx)
        except (SdkError, StartFailed) as error:
            _fail(str(error))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune language models in 2-4 bits on hardware you own.",
)

app.add_typer(data.files, name="files")
app.add_typer(access.keys, name="keys")
app.add_typer(access.projects, name="projects")
app.add_typer(webhooks, name="webhooks")
app.add_typer(workers, name="workers")
app.add_typer(evals, name="evals")
app.add_typer(models, name="models")
app.command()(chat)
app.command()(pull)
job_commands.add_to(app)
backup_commands.add_to(app)

JsonlFile = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="JSONL to upload first.")]


def _fail(message: str, status: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"error: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(status)


@app.command()
def up(
    state: State = DEFAULT_FOLDER,
    port: Annotated[int | None, typer.Option(help="Port of the API [default: 8000, or as before].")] = None,
) -> None:
    """Run the whole platform on this machine until Ctrl-C."""
    _end_on_signals()
    console = _console()
    lab = LabState(state)
    try:
        with Stack(lab, api_port=port, say=lambda line: console.print(line, markup=False)) as stack:
            console.print(
                f"\nBitsmith runs at {stack.config.url} (API: {stack.config.url}/docs)\n"
                f"API key: in {lab.folder / 'lab.json'}; commands started beside {state} find it there\n"
                f"logs: {lab.logs}\nCtrl-C stops it\n",
                markup=False,
                soft_wrap=True,
            )
            threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopped")


@app.command()
def demo(
    state: State = DEFAULT_FOLDER,
    small: Annotated[bool, typer.Option("--small", help="A fraction of the data and steps, for CI.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running afterwards, until Ctrl-C.")] = False,
) -> None:
    """One real job on a real model, from upload to verified download."""
    _end_on_signals()
    try:
        is_good = demonstration.run(LabState(state), small=small, keep=keep, console=_console())
    except demonstration.DemoFailed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(0 if is_good else 1)


@app.command()
def submit(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC.json", exists=True, dir_okay=False)],
    training_file: JsonlFile = None,
    validation_file: JsonlFile = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Change the spec; may be repeated.")
    ] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it until it is over.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the resolved spec and what it needs; submit nothing.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key never makes a second job.")] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Upload data and start a job."""
    console = _console()
    with connect(url, key, state) as bitsmith:
        try:
            spec = specs.parse(spec_file.read_text(encoding="utf-8"))
            for setting in settings or []:
                spec = specs.with_setting(spec, setting)
            for name, path in (("training_file", training_file), ("validation_file", validation_file)):
                if path is not None:
                    spec[name] = bitsmith.files.upload(path).id
        except (specs.BadSpec, UnicodeDecodeError) as error:
            _fail(f"{spec_file}: {error}", status=2)
        if dry_run:
            found = bitsmith.jobs.dry_run(spec)
            typer.echo(json.dumps(found.spec, indent=2))
            show.dry_run(found, Console(stderr=True, highlight=False))
            raise typer.Exit(1 if found.errors else 0)
        job = bitsmith.jobs.create(spec, idempotency_key=idempotency_key)
        typer.echo(job.id)
        if follow:
            _end_with(watch_job(bitsmith, job.id, console))


@app.command()
def jobs(
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List jobs, newest first."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.list(limit=limit, statuses=status or ())
    echo_list(found, show.jobs_table, empty="no jobs yet; `bitsmith submit` starts one", as_json=as_json)


@app.command()
def watch(job: str, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Follow a job until it is over; the status is the job's."""
    with connect(url, key, state) as bitsmith:
        bitsmith.jobs.get(job)  # so that a wrong id is an error before the screen is taken
        try:
            over = watch_job(bitsmith, job, _console())
        except KeyboardInterrupt:
            _fail(f"no longer watching; {job} goes on (`bitsmith cancel {job}` stops it)", status=INTERRUPTED)
    _end_with(over)


@app.command()
def cancel(job: str, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Stop a job."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.jobs.cancel(job)
    is_over = found.status == "cancelled"
    typer.echo(f"{job} {'is cancelled' if is_over else 'will stop within seconds'}")


def _end_with(job: Job) -> None:
    if job.status == "succeeded":
        typer.echo(f"published as {job.fine_tuned_model}; `bitsmith pull {job.fine_tuned_model}` downloads it")
        return
    reason = job.error or job.status_reason
    _fail(f"{job.id} {job.status}" + (f": {reason.message} ({reason.code})" if reason else ""))


def _end_on_signals() -> None:
    """SIGTERM ends like Ctrl-C; and SIGINT always does, though a shell ignores it for what it starts with `&`."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
