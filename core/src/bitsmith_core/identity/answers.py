"""Answers kept under a client's Idempotency-Key, in the transaction that did the work."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, text
from sqlalchemy.exc import OperationalError

from bitsmith_core.db import Tx
from bitsmith_core.db.models import IdempotencyKey
from bitsmith_core.errors import IdempotencyMismatch, StillAnswering
from bitsmith_core.ids import ProjectId

_LOCK_NOT_AVAILABLE = "55P03"
WAIT_S = 5  # for another request under the same key; most are answered by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    status: int
    body: dict[str, Any]


def replayed(tx: Tx, key: str, *, project: ProjectId, request_sha256: str) -> Answer | None:
    """What was answered under this key; serialises all users of the key until the transaction ends.

    Raises:
        IdempotencyMismatch: the key was used for another request.
        StillAnswering: a request under this key has been at work for WAIT_S.
    """
    before = tx.scalar(text("SELECT current_setting('lock_timeout')"))
    tx.execute(text(f"SET LOCAL lock_timeout = '{WAIT_S}s'"))
    try:
        tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"{project}/{key}"})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise StillAnswering(f"a request with the idempotency key {key!r} is still being answered") from error
    tx.execute(text("SELECT set_config('lock_timeout', :before, true)"), {"before": before})
    return known(tx, key, project=project, request_sha256=request_sha256)


def known(tx: Tx, key: str, *, project: ProjectId, request_sha256: str) -> Answer | None:
    """What was answered under this key, for now: another request may be at work.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    found = tx.get(IdempotencyKey, (project, key))
    if found is None:
        return None
    if found.request_sha256 != request_sha256:
        raise IdempotencyMismatch(f"idempotency key {key!r} was used for another request; choose a new key")
    return Answer(status=found.status, body=found.answer)


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
