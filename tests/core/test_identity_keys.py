"""A key lets in whom it was made for, as long as it was meant to, and its secret is nowhere but with its holder."""

import re
from datetime import timedelta

import pytest
from bitsmith_core.clock import utc_now
from bitsmith_core.db import Tx
from bitsmith_core.errors import Forbidden, Invalid, NotFound, Unauthorized
from bitsmith_core.identity import keys, projects
from bitsmith_core.identity.roles import SCOPES, Role
from bitsmith_core.ids import DEFAULT_PROJECT, ApiKeyId, ProjectId
from sqlalchemy import text

HOUR = timedelta(hours=1)


@pytest.fixture
def project(tx: Tx) -> ProjectId:
    return projects.create(tx, name="blue").id


@pytest.fixture
def issued(tx: Tx, project: ProjectId) -> keys.Issued:
    return keys.issue(tx, project=project, name="laptop", role=Role.MEMBER, created_by=None)


def test_a_key_says_which_it_is_and_has_256_random_bits(tx: Tx, issued: keys.Issued) -> None:
    assert re.fullmatch(r"bsk_[0-9a-v]{26}_[0-9a-f]{64}", issued.key)
    assert issued.row.id.removeprefix("key-") in issued.key
    again = keys.issue(tx, project=DEFAULT_PROJECT, name="laptop", role=Role.MEMBER, created_by=None)
    assert again.key.rpartition("_")[2] != issued.key.rpartition("_")[2]


def test_a_key_lets_in_with_all_that_its_role_may(tx: Tx, issued: keys.Issued, project: ProjectId) -> None:
    holder = keys.identify(tx, issued.key)
    assert (holder.key_id, holder.project, holder.role) == (issued.row.id, project, Role.MEMBER)
    assert holder.scopes == SCOPES[Role.MEMBER]


def test_a_key_with_scopes_may_only_those(tx: Tx) -> None:
    issued = keys.issue(
        tx, project=DEFAULT_PROJECT, name="ci", role=Role.ADMIN, scopes=["jobs:read", "jobs:write"], created_by=None
    )
    assert keys.identify(tx, issued.key).scopes == {"jobs:read", "jobs:write"}


def test_scopes_beyond_the_role_are_refused_one_by_one(tx: Tx) -> None:
    with pytest.raises(Invalid) as refusal:
        keys.issue(
            tx, project=DEFAULT_PROJECT, name="ci", role=Role.VIEWER, created_by=None,
            scopes=["jobs:read", "jobs:write", "everything"],
        )  # fmt: skip
    assert [(p.pointer, p.code) for p in refusal.value.problems] == [
        ("/scopes/1", "beyond_role"),
        ("/scopes/2", "unknown_scope"),
    ]


def test_no_column_holds_the_secret(tx: Tx, issued: keys.Issued) -> None:
    row = tx.execute(text("SELECT * FROM api_keys WHERE id = :id"), {"id": issued.row.id}).one()
    secret = issued.key.rpartition("_")[2]
    assert all(secret not in str(value) for value in row)
    assert secret not in repr(issued)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:-1] + ("0" if key[-1] != "0" else "1"),  # another secret
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key.upper(),
        lambda key: key.replace("bsk_", "sk_"),
        lambda key: f"bsk_{'0' * 26}_{key.rpartition('_')[2]}",  # a right secret for another id
        lambda key: "",
        lambda key: "bsk_\0",
    ],
)
def test_nothing_but_the_key_itself_lets_in(tx: Tx, issued: keys.Issued, change: object) -> None:
    assert callable(change)
    with pytest.raises(Unauthorized, match="not known") as refusal:
        keys.identify(tx, change(issued.key))
    assert issued.key.rpartition("_")[2] not in str(refusal.value)


def test_a_revoked_key_lets_nobody_in(tx: Tx, issued: keys.Issued) -> None:
    first = keys.revoke(tx, issued.row.id).revoked_at
    assert first is not None
    assert keys.revoke(tx, issued.row.id).revoked_at == first, "revoking again changes nothing"
    with pytest.raises(Unauthorized, match="revoked"):
        keys.identify(tx, issued.key)


def test_a_key_expires(tx: Tx) -> None:
    still = keys.issue(
        tx, project=DEFAULT_PROJECT, name="a", role=Role.VIEWER, expires_at=utc_now() + HOUR, created_by=None
    )
    over = keys.issue(
        tx, project=DEFAULT_PROJECT, name="b", role=Role.VIEWER, expires_at=utc_now() - HOUR, created_by=None
    )
    assert keys.identify(tx, still.key).key_id == still.row.id
    with pytest.raises(Unauthorized, match="expired"):
        keys.identify(tx, over.key)


def test_the_keys_of_an_archived_project_let_nobody_in_until_it_is_restored(
    tx: Tx, issued: keys.Issued, project: ProjectId
) -> None:
    projects.archive(tx, project)
    with pytest.raises(Forbidden, match="archived"):
        keys.identify(tx, issued.key)
    projects.restore(tx, project)
    assert keys.identify(tx, issued.key).project == project


def test_use_is_noted_once_a_minute(tx: Tx, issued: keys.Issued) -> None:
    def last_used() -> object:
        return tx.execute(text("SELECT last_used_at FROM api_keys WHERE id = :id"), {"id": issued.row.id}).scalar()

    def used_before(interval: str) -> object:
        tx.execute(
            text("UPDATE api_keys SET last_used_at = now() - CAST(:ago AS interval) WHERE id = :id"),
            {"ago": interval, "id": issued.row.id},
        )
        return last_used()

    assert last_used() is None
    keys.identify(tx, issued.key)
    assert last_used() is not None

    lately = used_before("59 seconds")
    keys.identify(tx, issued.key)
    assert last_used() == lately

    long_ago = used_before("61 seconds")
    keys.identify(tx, issued.key)
    assert last_used() != long_ago


def test_a_project_lists_its_own_keys_only_newest_first(tx: Tx, issued: keys.Issued, project: ProjectId) -> None:
    keys.issue(tx, project=DEFAULT_PROJECT, name="other", role=Role.VIEWER, created_by=None)
    newer = keys.issue(tx, project=project, name="newer", role=Role.VIEWER, created_by=issued.row.id)
    assert [row.id for row in keys.page(tx, project=project, limit=9)] == [newer.row.id, issued.row.id]
    assert [row.id for row in keys.page(tx, project=project, limit=9, after=newer.row.id)] == [issued.row.id]
    assert keys.belongs_to(tx, issued.row.id, project)
    assert not keys.belongs_to(tx, issued.row.id, DEFAULT_PROJECT)


def test_what_is_not_there_cannot_be_revoked(tx: Tx) -> None:
    with pytest.raises(NotFound):
        keys.revoke(tx, ApiKeyId("key-" + "0" * 26))
