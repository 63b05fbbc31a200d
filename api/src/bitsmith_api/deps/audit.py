"""The audit trail's one place: every route that changes something leaves a row, in the transaction that changes it.

A route class and not a dependency, because only here is the answer known (it names what was made) while the
transaction is still open.
"""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from bitsmith_core.db import Database, Tx
from bitsmith_core.delivery import audit
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import Response

from bitsmith_api.auth import Caller
from bitsmith_api.deps.idempotency import Once, is_dry_run

UNRECORDED = frozenset({"chat:write"})  # it changes nothing, and there is much of it

_IRREGULAR = {"cancel": "cancelled", "put": "put", "set": "set", "stop": "stopped"}


class Audited(Once):
    """For routers with routes that change something: `APIRouter(..., route_class=Audited)`.

    An Idempotency-Key is heeded, too; an answer given again is no second change.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        # Elsewhere the word would be ignored by the route, and must not hide what the route does.
        has_dry_run = any(parameter.alias == "dry_run" for parameter in self.dependant.query_params)

        async def handle_and_note(request: Request) -> Response:
            response = await handle(request)
            if _changed_something(request, response) and not (has_dry_run and is_dry_run(request)):
                await _note(request, self.name, response)
            return response

        return handle_and_note


def action_of(route_name: str) -> str:
    """`cancel_job` did `job.cancelled`. Pure."""
    verb, _, thing = route_name.partition("_")
    past = _IRREGULAR.get(verb) or (f"{verb}d" if verb.endswith("e") else f"{verb}ed")
    return f"{thing}.{past}"


def _changed_something(request: Request, response: Response) -> bool:
    scope = getattr(request.state, "scope", None)
    return (
        scope is not None
        and scope.endswith(":write")
        and scope not in UNRECORDED
        and response.status_code < 400
        and response.headers.get("Idempotent-Replayed") != "true"
        and not getattr(request.state, "changed_nothing", False)
    )


async def _note(request: Request, route_name: str, response: Response) -> None:
    caller: Caller = request.state.caller
    target = _target(request, response)
    facts = {
        # What happens to a project is its own business, though nobody in it can do it.
        "project": target if request.state.scope == "projects:write" else caller.project,
        "actor": caller.actor,
        "action": action_of(route_name),
        "target": target,
        "request_id": request.state.request_id,
        "address": request.client.host if request.client else None,
        **{f"path_{name}": value for name, value in request.path_params.items()},
    }
    tx: Tx | None = getattr(request.state, "transaction", None)
    if tx is not None:
        audit.note(tx, **facts)  # written by the commit, which comes next
    else:
        await run_in_threadpool(_note_alone, request.app.state.services.database, facts)


def _note_alone(database: Database, facts: dict[str, Any]) -> None:
    """For routes that work in transactions of their own."""
    with database.transaction() as tx:
        audit.note(tx, **facts)


def _target(request: Request, response: Response) -> str:
    """The id in the answer, or else the last one in the path."""
    body = getattr(response, "body", b"")
    if re.match(r"application/(\w+\+)?json", response.headers.get("content-type", "")) and body:
        answer = json.loads(bytes(body))
        if isinstance(answer, dict) and isinstance(answer.get("id"), str):
            return str(answer["id"])
    return "/".join(str(value) for value in request.path_params.values()) or "-"
