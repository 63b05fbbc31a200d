"""Roles only grow, and scopes only take away."""

from itertools import pairwise

import pytest
from bitsmith_core.identity.roles import ALL_SCOPES, SCOPES, Role, granted
from hypothesis import given
from hypothesis import strategies as st


def test_each_role_may_all_that_the_one_before_may() -> None:
    for lesser, greater in pairwise(Role):
        assert SCOPES[lesser] < SCOPES[greater]


def test_a_viewer_changes_nothing() -> None:
    assert all(scope.endswith(":read") for scope in SCOPES[Role.VIEWER])


def test_only_the_installation_makes_projects_and_drains_workers() -> None:
    assert ALL_SCOPES - SCOPES[Role.ADMIN] == {"projects:write", "workers:write"}


@pytest.mark.parametrize("scope", ["keys:read", "keys:write", "audit:read"])
def test_keys_and_the_audit_trail_are_for_admins(scope: str) -> None:
    assert scope not in SCOPES[Role.MEMBER]
    assert scope in SCOPES[Role.ADMIN]


@given(st.sampled_from(Role), st.sets(st.sampled_from(sorted(ALL_SCOPES)), min_size=1))
def test_scopes_never_add_to_a_role(role: Role, scopes: set[str]) -> None:
    assert granted(role, scopes) == SCOPES[role] & scopes


def test_without_scopes_a_key_may_what_its_role_may() -> None:
    assert granted(Role.MEMBER) == SCOPES[Role.MEMBER]
