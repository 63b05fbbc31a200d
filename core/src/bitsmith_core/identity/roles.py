"""What a key may do: its role says at most, its scopes say less. Pure.

A scope is `<resource>:read` or `<resource>:write`. A role is a set of scopes, and a key with scopes of its own has
those of them that its role has. `projects:write` and `workers:write` are in no role: they are for who runs the
installation.
"""

from collections.abc import Collection
from enum import StrEnum

from bitsmith_core.errors import Invalid, Problem

RESOURCES = ("files", "jobs", "models", "chat", "webhooks", "keys", "usage", "audit", "projects", "workers")

ALL_SCOPES = frozenset(f"{resource}:{access}" for resource in RESOURCES for access in ("read", "write"))


class Role(StrEnum):
    """Each may do all that those before it may."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


_VIEWER = frozenset({"files:read", "jobs:read", "models:read", "usage:read", "projects:read", "workers:read"})
_MEMBER = _VIEWER | {
    "files:write", "jobs:write", "models:write", "chat:read", "chat:write", "webhooks:read", "webhooks:write",
}  # fmt: skip
SCOPES: dict[Role, frozenset[str]] = {
    Role.VIEWER: _VIEWER,
    Role.MEMBER: _MEMBER,
    Role.ADMIN: ALL_SCOPES - {"projects:write", "workers:write"},
}


def granted(role: Role, scopes: Collection[str] = ()) -> frozenset[str]:
    """What a key with this role and these scopes may do; without scopes, all that the role may."""
    return SCOPES[role] & frozenset(scopes) if scopes else SCOPES[role]


def check(role: Role, scopes: Collection[str]) -> None:
    """
    Raises:
        Invalid: naming each scope that does not exist or that the role does not have.
    """
    problems = []
    for index, scope in enumerate(scopes):
        if scope not in ALL_SCOPES:
            resources = ", ".join(RESOURCES)
            detail = (
                f"{scope!r} is no scope; write <resource>:read or <resource>:write, the resources being {resources}"
            )
            problems.append(Problem(pointer=f"/scopes/{index}", code="unknown_scope", detail=detail))
        elif scope not in SCOPES[role]:
            detail = f"the role {role} does not have {scope}"
            problems.append(Problem(pointer=f"/scopes/{index}", code="beyond_role", detail=detail))
    if problems:
        raise Invalid(problems[0].detail, problems)
