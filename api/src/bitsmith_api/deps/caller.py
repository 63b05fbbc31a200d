"""Whose request it is, and whether they may ask for that."""

from typing import Annotated

from bitsmith_core.errors import Forbidden
from bitsmith_core.identity.roles import ALL_SCOPES
from fastapi import Depends
from fastapi.params import Depends as Dependency
from fastapi.requests import Request

from bitsmith_api.auth import Caller


async def _caller(request: Request) -> Caller:
    found = request.state.caller
    assert isinstance(found, Caller)
    return found


FromCaller = Annotated[Caller, Depends(_caller)]


class Require:
    """Lets pass whose key has this scope."""

    def __init__(self, scope: str) -> None:
        if scope not in ALL_SCOPES:
            raise ValueError(f"{scope!r} is not a scope")
        self.scope = scope

    async def __call__(self, request: Request, caller: FromCaller) -> None:
        request.state.scope = self.scope  # what the audit trail goes by
        if self.scope not in caller.scopes:
            raise Forbidden(f"this API key may not {self.scope}; its role is {caller.role}")


def require(scope: str) -> Dependency:
    """For a route or a router: `dependencies=[require("jobs:write")]`."""
    dependency: Dependency = Depends(Require(scope))
    return dependency
