"""Who may come in, and who they are.

A project's key lets in as what `bitsmith_core.identity` says. The bootstrap key of the installation's settings may do
everything, in the default project or in the one that the header names: it makes the projects and their first keys.

The web UI shows its key once and has a session from then on (`bitsmith_api.sessions`). A browser sends that cookie
whoever asks it to, so a request that changes something must also show that one of our own pages made it.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from bitsmith_core.clock import utc_now
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

from bitsmith_api import sessions

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
    """A dependency that lets requests with a good key or session pass."""

    async def require_key(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_SCHEME)],
        project: Annotated[
            str | None,
            Header(alias=PROJECT_HEADER, description="the project to act in; only the bootstrap key may choose"),
        ] = None,
    ) -> None:
        # In a transaction of its own: a body may take minutes to come, and no connection should wait for it.
        cookie = request.cookies.get(sessions.COOKIE)
        if credentials is not None:
            key = credentials.credentials
            request.state.caller = await run_in_threadpool(
                holder_of, key, bootstrap_key=bootstrap_key, database=database, project=project
            )
        elif cookie is not None and "authorization" not in request.headers:
            check_own_page(request)
            session = sessions.read(cookie, bootstrap_key, now=utc_now())
            request.state.session = session
            request.state.caller = await run_in_threadpool(_in_session, session, database=database, project=project)
        else:
            raise Unauthorized("send the API key as 'Authorization: Bearer <key>'")

    return require_key


def holder_of(key: str, *, bootstrap_key: SecretStr, database: Database, project: str | None = None) -> Caller:
    """Whom this key lets in.

    Raises:
        Unauthorized: nobody.
        Forbidden: not into that project.
    """
    if hmac.compare_digest(_digest(key), _digest(bootstrap_key.get_secret_value())):
        return _installation_in(database, project)
    with database.transaction() as tx:
        return _of(keys.identify(tx, key), project)


def check_own_page(request: Request) -> None:
    """That a request which may change something was made by one of our own pages, where a browser brings the cookie.

    A page of another site cannot set the header without a preflight, which nobody here answers. What the browser
    says about where the request comes from must agree with it.

    Raises:
        Forbidden: another page, or none.
    """
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return
    if request.headers.get(sessions.CSRF_HEADER) != "1":
        raise Forbidden(f"a session changes things only with the header '{sessions.CSRF_HEADER}: 1'")
    site = request.headers.get("sec-fetch-site", "same-origin")  # browsers leave it out where there is no TLS
    origin = request.headers.get("origin")
    if site != "same-origin" or (origin is not None and urlsplit(origin).netloc != request.headers.get("host")):
        raise Forbidden("a session changes things only from this installation's own pages")


def _in_session(session: sessions.Session, *, database: Database, project: str | None) -> Caller:
    if session.actor == BOOTSTRAP:
        return _installation_in(database, project)
    with database.transaction() as tx:
        return _of(keys.admit(tx, ApiKeyId(session.actor)), project)


_INSTALLATION = Caller(project=DEFAULT_PROJECT, actor=BOOTSTRAP, role=Role.ADMIN, scopes=ALL_SCOPES, key_id=None)


def _installation_in(database: Database, project: str | None) -> Caller:
    if project is None or project == DEFAULT_PROJECT:
        return _INSTALLATION
    with database.transaction() as tx:
        try:
            found = projects.get(tx, ProjectId(project))
        except NotFound as error:
            raise Forbidden(f"{PROJECT_HEADER}: {error}") from error
    return Caller(project=found.id, actor=BOOTSTRAP, role=Role.ADMIN, scopes=ALL_SCOPES, key_id=None)


def _of(holder: keys.Holder, project: str | None) -> Caller:
    if project is not None and project != holder.project:
        raise Forbidden(f"this API key acts in project {holder.project} only")
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
