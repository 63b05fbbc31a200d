"""The web UI's login: a key is shown once and becomes a cookie that no script can read."""

from bitsmith_core.clock import utc_now
from bitsmith_core.db import Tx
from bitsmith_core.identity import keys, projects
from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.requests import Request
from fastapi.responses import Response

from bitsmith_api import sessions
from bitsmith_api.auth import Caller, check_own_page, holder_of
from bitsmith_api.deps import FromCaller, SharedServices, Transaction
from bitsmith_api.deps.body import body_schema, json_body
from bitsmith_api.errors import documented
from bitsmith_api.schemas.session import Login, SessionInfo
from bitsmith_api.schemas.times import unix

door = APIRouter(prefix="/v1/session", tags=["Session"])  # asks for no key: it is where one is shown
router = APIRouter(prefix="/v1/session", tags=["Session"])

_COOKIE = {"Set-Cookie": {"description": "the session, for browsers only", "schema": {"type": "string"}}}


@door.post(
    "",
    summary="Sign in",
    response_model=SessionInfo,
    responses={200: {"headers": _COOKIE}, **documented(400, 401, 413, 415, 422, 500, 503)},
    openapi_extra=body_schema(Login),
)
async def create_session(request: Request, response: Response, services: SharedServices) -> SessionInfo:
    """For browsers: answers a same-site HttpOnly cookie that stands for the key. It ends by itself, and with the key.

    A request by cookie that changes something must carry `X-Bitsmith-CSRF: 1` and come from this origin.
    """
    check_own_page(request)
    login = await json_body(Login)(request)
    return await run_in_threadpool(_sign_in, login, request, response, services)


def _sign_in(login: Login, request: Request, response: Response, services: SharedServices) -> SessionInfo:
    settings = services.settings
    key = login.key.get_secret_value()
    caller = holder_of(key, bootstrap_key=settings.key, database=services.database)
    session = sessions.Session(actor=caller.actor, expires_at=utc_now() + settings.session_expires)
    response.set_cookie(
        sessions.COOKIE,
        sessions.sign(session, settings.key),
        max_age=settings.session_expires_s,
        path="/v1",
        httponly=True,
        samesite="strict",
        secure=_is_encrypted(request),
    )
    response.headers["Cache-Control"] = "no-store"
    with services.database.transaction() as tx:
        return _info(tx, caller, session)


@router.get("", summary="Who am I?", responses=documented(401, 500, 503))
def get_session(request: Request, caller: FromCaller, tx: Transaction) -> SessionInfo:
    """The project, role and scopes of the key or session that asks."""
    return _info(tx, caller, getattr(request.state, "session", None))


@router.delete("", summary="Sign out", status_code=204, responses=documented(401, 500, 503))
async def delete_session(response: Response) -> None:
    """Takes the cookie away. The session of a key that lets nobody in any more is nothing that could be ended."""
    response.delete_cookie(sessions.COOKIE, path="/v1", httponly=True, samesite="strict")


def _info(tx: Tx, caller: Caller, session: sessions.Session | None) -> SessionInfo:
    return SessionInfo(
        project=caller.project,
        project_name=projects.get(tx, caller.project).name,
        role=caller.role,
        scopes=sorted(caller.scopes),
        key_id=caller.key_id,
        key_name=None if caller.key_id is None else keys.get(tx, caller.key_id).name,
        is_installation=caller.is_installation,
        expires_at=None if session is None else unix(session.expires_at),
    )


def _is_encrypted(request: Request) -> bool:
    """Also where a proxy ends TLS: its word can only make the cookie stricter."""
    return "https" in {request.url.scheme, request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()}
