"""`bitsmith webhooks`: who is told of what happens, and what was sent to them."""

from typing import Annotated

import typer

from bitsmith_client import show
from bitsmith_client.cli.connection import Key, State, Url, connect
from bitsmith_client.cli.output import AsJson, echo_list
from bitsmith_client.lab.state import DEFAULT_FOLDER

webhooks = typer.Typer(no_args_is_help=True, help="Say where a project's events go, and see what was sent.")

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK-ID")]
Limit = Annotated[int, typer.Option(min=1)]


@webhooks.command("ls")
def list_webhooks(
    limit: Limit = 20, as_json: AsJson = False, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER
) -> None:
    """List webhooks, newest first."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.webhooks.list(limit=limit)
    empty = "no webhooks yet; `bitsmith webhooks add` makes one"
    echo_list(found, show.webhooks_table, empty=empty, as_json=as_json)


@webhooks.command("add")
def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="https://…, where events are POSTed to.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="Only this, e.g. fine_tuning.job.failed; may be repeated [default: everything]."),
    ] = None,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Make a webhook and show the secret that signs what it gets, once."""
    with connect(url, key, state) as bitsmith:
        made = bitsmith.webhooks.create(address, events=event or ())
    typer.echo(made.secret)
    typer.echo(f"{made.id}: keep the secret now, it is not shown again", err=True)


@webhooks.command("rm")
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="WEBHOOK-ID...")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Delete webhooks; what waits is not sent."""
    with connect(url, key, state) as bitsmith:
        for webhook in ids:
            bitsmith.webhooks.delete(webhook)
            typer.echo(f"{webhook} is deleted")


@webhooks.command("ping")
def ping(webhook: WebhookId, url: Url = None, key: Key = None, state: State = DEFAULT_FOLDER) -> None:
    """Send a test event."""
    with connect(url, key, state) as bitsmith:
        sent = bitsmith.webhooks.ping(webhook)
    typer.echo(f"{sent.id} is on its way; `bitsmith webhooks deliveries {webhook}` tells whether it arrived")


@webhooks.command("deliveries")
def deliveries(
    webhook: WebhookId,
    status: Annotated[str | None, typer.Option(help="Only pending, delivered or failed ones.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """List what was sent and what came back, newest first."""
    with connect(url, key, state) as bitsmith:
        found = bitsmith.webhooks.deliveries(webhook, limit=limit, status=status)
    echo_list(found, show.deliveries_table, empty="nothing was sent yet", as_json=as_json)


@webhooks.command("replay")
def replay(
    webhook: WebhookId,
    delivery: Annotated[list[str], typer.Argument(metavar="DELIVERY-ID...")],
    url: Url = None,
    key: Key = None,
    state: State = DEFAULT_FOLDER,
) -> None:
    """Send events again, under the same ids."""
    with connect(url, key, state) as bitsmith:
        for one in delivery:
            bitsmith.webhooks.replay(webhook, one)
            typer.echo(f"{one} is sent again")
