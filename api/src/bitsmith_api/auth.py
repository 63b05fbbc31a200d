"""Who may come in: for now, everybody who holds the bootstrap key."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated

from bitsmith_core.errors import Unauthorized
from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

_SCHEME = HTTPBearer(
    auto_error=False,  # its own answer would not be a problem document
    scheme_name="ApiKey",
    description="The API key, as `Authorization: Bearer <key>`.",
)


def guard(key: SecretStr) -> Callable[[HTTPAuthorizationCredentials | None], Awaitable[None]]:
    """A dependency that lets requests with this key pass."""
    expected = _digest(key.get_secret_value())

    async def require_key(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_SCHEME)]) -> None:
        if credentials is None:
            raise Unauthorized("send the API key as 'Authorization: Bearer <key>'")
        if not hmac.compare_digest(_digest(credentials.credentials), expected):
            raise Unauthorized("this API key is not known here")

    return require_key


def _digest(key: str) -> bytes:
    """Equal length for every key, so that a comparison tells nothing about it."""
    return hashlib.sha256(key.encode()).digest()
