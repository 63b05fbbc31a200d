"""Who may come in, and who they are: for now, everybody who holds the bootstrap key is the default project's admin."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from bitsmith_core.errors import Unauthorized
from bitsmith_core.ids import DEFAULT_PROJECT, ProjectId
from fastapi import Security
from fastapi.requests import Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

_SCHEME = HTTPBearer(
    auto_error=False,  # its own answer would not be a problem document
    scheme_name="ApiKey",
    description="The API key, as `Authorization: Bearer <key>`.",
)


BOOTSTRAP = "bootstrap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whose request this is; guard leaves it in request.state.caller."""

    project: ProjectId
    actor: str  # a key id, or BOOTSTRAP


def guard(key: SecretStr) -> Callable[[Request, HTTPAuthorizationCredentials | None], Awaitable[None]]:
    """A dependency that lets requests with this key pass."""
    expected = _digest(key.get_secret_value())

    async def require_key(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_SCHEME)]
    ) -> None:
        if credentials is None:
            raise Unauthorized("send the API key as 'Authorization: Bearer <key>'")
        if not hmac.compare_digest(_digest(credentials.credentials), expected):
            raise Unauthorized("this API key is not known here")
        request.state.caller = Caller(project=DEFAULT_PROJECT, actor=BOOTSTRAP)

    return require_key


def _digest(key: str) -> bytes:
    """Equal length for every key, so that a comparison tells nothing about it."""
    return hashlib.sha256(key.encode()).digest()
