"""`bitsmith workers`: who is there, and who shall stop for a while."""

from typing import Annotated

import typer

from bitsmith_client import show
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER

workers = typer.Typer(no_args_is_help=True, help="List workers, and drain one (with the bootstrap key).")

Name = Annotated[str, typer.Argument(metavar="WORKER")]


@workers.command("ls")
def list_workers(
    pool: Annotated[str | None, typer.Option(help="Only those of this pool.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List workers by name, with what they do."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.workers.list(pool=pool, limit=None)
    empty = "no worker has reported" if pool is None else f"no worker of the pool {pool} has reported"
    echo_list(found, show.workers_table, empty=empty, as_json=as_json)


@workers.command("drain")
def drain(name: Name, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Let a worker give back its job at a checkpoint and take no other."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.workers.drain(name)
    typer.echo(f"{name} {'gives back its job at a checkpoint' if found.status == 'busy' else 'takes no jobs'}")


@workers.command("undrain")
def undrain(name: Name, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Let a worker take jobs again."""
    with connect(url, key, state) as bitsmith:
        bitsmith.workers.undrain(name)
    typer.echo(f"{name} takes jobs again")
