"""`bitsmith keys` and `bitsmith projects`: who may do what."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from bitsmith_client import show
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
projects = typer.Typer(no_args_is_help=True, help="Make, list and limit projects (with the bootstrap key).")

InProject = Annotated[
    str | None,
    typer.Option("--project", envvar="BITSMITH_PROJECT", help="The project to act in (with the bootstrap key)."),
]
Limit = Annotated[int | None, typer.Option(min=0, help="[default: the installation's]")]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: Annotated[str, typer.Option(help="viewer, member or admin.")] = "member",
    scope: Annotated[list[str] | None, typer.Option(help="Only this, e.g. jobs:read; may be repeated.")] = None,
    expires_days: Annotated[int | None, typer.Option(min=1, help="[default: never]")] = None,
    project: InProject = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Make a key and show it, once."""
    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    with connect(url, key, state, project=project) as bitsmith:
        issued = bitsmith.keys.create(name, role=role, scopes=scope or (), expires_at=expires_at)
    typer.echo(issued.key)
    typer.echo(f"{issued.id}: keep the key now, it is not shown again", err=True)


@keys.command("list")
def list_keys(
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    project: InProject = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List keys, newest first."""
    with connect(url, key, state, project=project) as bitsmith:
        found = bitsmith.keys.list(limit=limit)
    echo_list(found, show.keys_table, empty="no keys yet; `bitsmith keys create` makes one", as_json=as_json)


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY-ID")],
    project: InProject = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Let a key in no more."""
    with connect(url, key, state, project=project) as bitsmith:
        bitsmith.keys.revoke(key_id)
    typer.echo(f"{key_id} is revoked")


@projects.command("create")
def create_project(
    name: str,
    requests_per_minute: Limit = None,
    open_jobs: Limit = None,
    running_jobs: Limit = None,
    storage_bytes: Limit = None,
    weight: Annotated[float, typer.Option(help="Of its share of the GPUs.")] = 1.0,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Make a project; `bitsmith keys create --project` makes its first key."""
    limits = _limits(requests_per_minute, open_jobs, running_jobs, storage_bytes)
    with connect(url, key, state) as bitsmith:
        typer.echo(bitsmith.projects.create(name, limits=limits, weight=weight).id)


@projects.command("list")
def list_projects(
    limit: Annotated[int, typer.Option(min=1)] = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List projects, newest first."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.projects.list(limit=limit)
    echo_list(found, show.projects_table, empty="no projects", as_json=as_json)


@projects.command("limits")
def limit_project(
    project_id: Annotated[str, typer.Argument(metavar="PROJECT-ID")],
    requests_per_minute: Limit = None,
    open_jobs: Limit = None,
    running_jobs: Limit = None,
    storage_bytes: Limit = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Set a project's own limits; those that are not given become the installation's again."""
    limits = _limits(requests_per_minute, open_jobs, running_jobs, storage_bytes)
    with connect(url, key, state) as bitsmith:
        bitsmith.projects.change(project_id, limits=limits)
    typer.echo(f"{project_id}: {show.limits(limits) or 'no limits of its own'}")


@projects.command("archive")
def archive_project(
    project_id: Annotated[str, typer.Argument(metavar="PROJECT-ID")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Let its keys in no more; nothing is deleted."""
    with connect(url, key, state) as bitsmith:
        bitsmith.projects.archive(project_id)
    typer.echo(f"{project_id} is archived; `bitsmith projects restore {project_id}` takes it out again")


@projects.command("restore")
def restore_project(
    project_id: Annotated[str, typer.Argument(metavar="PROJECT-ID")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Take a project out of the archive."""
    with connect(url, key, state) as bitsmith:
        bitsmith.projects.restore(project_id)
    typer.echo(f"{project_id} is active")


def _limits(
    requests_per_minute: int | None, open_jobs: int | None, running_jobs: int | None, storage_bytes: int | None
) -> dict[str, int | None]:
    given = {
        "requests_per_minute": requests_per_minute,
        "open_jobs": open_jobs,
        "running_jobs": running_jobs,
        "storage_bytes": storage_bytes,
    }
    return {name: value for name, value in given.items() if value is not None}
