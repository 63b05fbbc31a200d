"""API keys: `bsk_<id>_<secret>`. The secret is 256 random bits, shown once and remembered as its SHA-256 only.

A fast digest is right here: nobody can try 2**256 secrets. What people choose themselves would need a slow one.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update

from bitsmith_core.db import Tx
from bitsmith_core.db.models import ApiKey, Project
from bitsmith_core.errors import Forbidden, NotFound, Unauthorized
from bitsmith_core.identity import roles
from bitsmith_core.identity.roles import Role
from bitsmith_core.ids import ApiKeyId, ProjectId, new_api_key_id

__all__ = ["ApiKey", "Holder", "Issued", "admit", "belongs_to", "get", "identify", "issue", "page", "revoke"]

USE_NOTED_EVERY = timedelta(minutes=1)  # a row written at every request would be the busiest of the database

_KEY = re.compile(r"bsk_([0-9a-v]{26})_([0-9a-f]{64})")
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    row: ApiKey
    key: str = field(repr=False)  # for its holder's eyes, once


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who a key lets in."""

    key_id: ApiKeyId
    project: ProjectId
    role: Role
    scopes: frozenset[str]  # all that the key may do
    limits: Mapping[str, Any]  # the project's own


def issue(
    tx: Tx,
    *,
    project: ProjectId,
    name: str,
    role: Role,
    scopes: Sequence[str] = (),
    expires_at: datetime | None = None,
    created_by: ApiKeyId | None,
) -> Issued:
    """A new key. What is answered here is the only place that ever holds its secret.

    Args:
        scopes: less than the role may; without any, all that the role may.
        created_by: None for the installation's bootstrap key.

    Raises:
        Invalid: a scope that does not exist or that the role does not have.
    """
    roles.check(role, scopes)
    key_id, secret = new_api_key_id(), secrets.token_hex(32)
    row = ApiKey(
        id=key_id,
        project_id=project,
        name=name,
        role=role,
        scopes=sorted(set(scopes)),
        secret_sha256=_digest(secret),
        created_by=created_by,
        expires_at=expires_at,
    )
    tx.add(row)
    tx.flush()
    return Issued(row=row, key=f"bsk_{key_id.removeprefix('key-')}_{secret}")


def identify(tx: Tx, key: str) -> Holder:
    """Whose key this is; remembers that it was used, once a minute.

    Raises:
        Unauthorized: nobody's, or not any more.
        Forbidden: its project is archived.
    """
    parts = _KEY.fullmatch(key)
    if parts is None:
        raise _unknown()
    return _admitted(tx, ApiKeyId(f"key-{parts[1]}"), secret=parts[2])


def admit(tx: Tx, key_id: ApiKeyId) -> Holder:
    """Whom this key lets in, for somebody who showed its secret before: a session of the web UI.

    Raises:
        Unauthorized: nobody, or not any more.
        Forbidden: its project is archived.
    """
    return _admitted(tx, key_id, secret=None)


def _admitted(tx: Tx, key_id: ApiKeyId, *, secret: str | None) -> Holder:
    is_expired = func.coalesce(ApiKey.expires_at <= func.now(), False)
    is_use_to_note = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - USE_NOTED_EVERY)
    query = select(ApiKey, Project, is_expired, is_use_to_note).join(Project, Project.id == ApiKey.project_id)
    found = tx.execute(query.where(ApiKey.id == key_id)).one_or_none()
    # Compared even if there is no such key, so that the time taken does not say which ids exist.
    is_right = secret is None or hmac.compare_digest(_digest(secret), found[0].secret_sha256 if found else _NOBODY)
    if found is None or not is_right:
        raise _unknown()

    row, project, expired, use_to_note = found
    if row.revoked_at is not None:
        raise Unauthorized(f"API key {key_id} was revoked")
    if expired:
        raise Unauthorized(f"API key {key_id} has expired")
    if project.archived_at is not None:
        raise Forbidden(f"project {project.id} is archived")
    if use_to_note:
        noted = update(ApiKey).where(ApiKey.id == key_id, is_use_to_note).values(last_used_at=func.now())
        tx.execute(noted.execution_options(synchronize_session=False))
    role = Role(row.role)
    return Holder(
        key_id=key_id,
        project=project.id,
        role=role,
        scopes=roles.granted(role, row.scopes),
        limits=project.limits,
    )


def belongs_to(tx: Tx, key_id: ApiKeyId, project: ProjectId) -> bool:
    """Whether the key exists, for this project."""
    row = tx.get(ApiKey, key_id)
    return row is not None and row.project_id == project


def get(tx: Tx, key_id: ApiKeyId) -> ApiKey:
    row = tx.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"there is no API key {key_id}")
    return row


def page(tx: Tx, *, project: ProjectId, limit: int, after: ApiKeyId | None = None) -> list[ApiKey]:
    """Newest first, with those that no longer let anybody in."""
    query = select(ApiKey).where(ApiKey.project_id == project).order_by(ApiKey.id.desc()).limit(limit)
    return list(tx.scalars(query.where(ApiKey.id < after) if after is not None else query))


def revoke(tx: Tx, key_id: ApiKeyId) -> ApiKey:
    """From the next request on it lets nobody in. Revoking again changes nothing.

    Raises:
        NotFound: there is no such key.
    """
    revoked = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=func.now())
    tx.execute(revoked.execution_options(synchronize_session=False))
    row = get(tx, key_id)
    tx.refresh(row)
    return row


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _unknown() -> Unauthorized:
    return Unauthorized("this API key is not known here")
