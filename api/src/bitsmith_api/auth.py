"""Who may come in, and who they are.

A project's key lets in as what `bitsmith_core.identity` says. The bootstrap key of the installation's settings may do
everything, in the default project or in the one that the header names: it makes the projects and their first keys.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from bitsmith_core.db import Database
from bitsmith_core.errors import Forbidden, NotFound, Unauthorized
from bitsmith_core.identity import keys, projects
from bitsmith_core.identity.roles import ALL_SCOPES, Role
from bitsmith_core.ids import DEFAULT_PROJECT, ApiKeyId, ProjectId
from fastapi import Header, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

BOOTSTRAP = "bootstrap"
PROJECT_HEADER = "X-Bitsmith-Project"

_SCHEME = HTTPBearer(
    auto_error=False,  # its own answer would not be a problem document
    scheme_name="ApiKey",
    description="The API key, as `Authorization: Bearer <key>`.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request this is; guard leaves it in request.state.caller."""

    project: ProjectId
    actor: str  # a key id, or BOOTSTRAP
    role: Role
    scopes: frozenset[str]  # all that it may do
    key_id: ApiKeyId | None  # None: the bootstrap key
    limits: Mapping[str, Any] = field(default_factory=dict)  # the project's own, over the installation's

    @property
    def is_installation(self) -> bool:
        """Whoever runs the installation: may act in any project."""
        return self.key_id is None


Guard = Callable[[Request, HTTPAuthorizationCredentials | None, str | None], Awaitable[None]]


def guard(bootstrap_key: SecretStr, database: Database) -> Guard:
    """A dependency that lets requests with a good key pass."""
    expected = _digest(bootstrap_key.get_secret_value())

    async def require_key(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_SCHEME)],
        project: Annotated[
            str | None,
            Header(alias=PROJECT_HEADER, description="the project to act in; only the bootstrap key may choose"),
        ] = None,
    ) -> None:
        if credentials is None:
            raise Unauthorized("send the API key as 'Authorization: Bearer <key>'")
        if hmac.compare_digest(_digest(credentials.credentials), expected):
            caller = _INSTALLATION
            if project is not None and project != DEFAULT_PROJECT:
                caller = await run_in_threadpool(_installation_in, database, project)
        else:
            # In a transaction of its own: a body may take minutes to come, and no connection should wait for it.
            caller = await run_in_threadpool(_holder, database, credentials.credentials)
            if project is not None and project != caller.project:
                raise Forbidden(f"this API key acts in project {caller.project} only")
        request.state.caller = caller

    return require_key


_INSTALLATION = Caller(project=DEFAULT_PROJECT, actor=BOOTSTRAP, role=Role.ADMIN, scopes=ALL_SCOPES, key_id=None)


def _installation_in(database: Database, project: str) -> Caller:
    with database.transaction() as tx:
        try:
            found = projects.get(tx, ProjectId(project))
        except NotFound as error:
            raise Forbidden(f"{PROJECT_HEADER}: {error}") from error
    return Caller(project=found.id, actor=BOOTSTRAP, role=Role.ADMIN, scopes=ALL_SCOPES, key_id=None)


def _holder(database: Database, key: str) -> Caller:
    with database.transaction() as tx:
        holder = keys.identify(tx, key)
    return Caller(
        project=holder.project,
        actor=holder.key_id,
        role=holder.role,
        scopes=holder.scopes,
        key_id=holder.key_id,
        limits=holder.limits,
    )


def _digest(key: str) -> bytes:
    """Equal length for every key, so that a comparison tells nothing about it."""
    return hashlib.sha256(key.encode()).digest()
