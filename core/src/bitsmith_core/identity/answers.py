"""Answers kept under a client's Idempotency-Key, in the transaction that did the work."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, text

from bitsmith_core.db import Tx
from bitsmith_core.db.models import IdempotencyKey
from bitsmith_core.errors import IdempotencyMismatch
from bitsmith_core.ids import ProjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: dict[str, Any]


def replayed(tx: Tx, key: str, *, project: ProjectId, request_sha256: str) -> Answer | None:
    """What was answered under this key; serialises all users of the key until the transaction ends.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"{project}/{key}"})
    known = tx.get(IdempotencyKey, (project, key))
    if known is None:
        return None
    if known.request_sha256 != request_sha256:
        raise IdempotencyMismatch(f"idempotency key {key!r} was used for another request; choose a new key")
    return Answer(status=known.status, body=known.answer)


def remember(tx: Tx, key: str, answer: Answer, *, project: ProjectId, request_sha256: str) -> None:
    tx.add(
        IdempotencyKey(
            project_id=project, key=key, request_sha256=request_sha256, status=answer.status, answer=answer.body
        )
    )
    tx.flush()


def forget_answers(tx: Tx, *, older_than: timedelta) -> int:
    """Answers how many were forgotten."""
    old = delete(IdempotencyKey).where(IdempotencyKey.created_at < func.now() - older_than)
    return len(tx.scalars(old.returning(IdempotencyKey.key)).all())
