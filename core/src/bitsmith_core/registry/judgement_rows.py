"""Every SQL statement about judgements: verdicts of a judging model on answers of several."""

from typing import Any

from sqlalchemy import select

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Judgement as Judgement  # handed on: what `add`, `get` and `page` answer with
from bitsmith_core.errors import NotFound
from bitsmith_core.ids import JudgementId, ProjectId, new_judgement_id
from bitsmith_core.registry.elo import Verdict


def add(
    tx: Tx,
    *,
    project: ProjectId,
    title: str,
    judge: str,
    prompts_sha256: str,
    template_sha256: str,
    contestants: list[str],
    verdicts: list[Verdict],
    created_by: str | None,
) -> Judgement:
    row = Judgement(
        id=new_judgement_id(),
        project_id=project,
        title=title,
        judge=judge,
        prompts_sha256=prompts_sha256,
        template_sha256=template_sha256,
        contestants=contestants,
        verdicts=[verdict._asdict() for verdict in verdicts],
        created_by=created_by,
    )
    tx.add(row)
    tx.flush()
    tx.refresh(row)
    return row


def get(tx: Tx, judgement_id: JudgementId, *, project: ProjectId) -> Judgement:
    """
    Raises:
        NotFound: the project has none of that id.
    """
    query = select(Judgement).where(Judgement.id == judgement_id, Judgement.project_id == project)
    found = tx.scalar(query)
    if found is None:
        raise NotFound(f"there is no judgement {judgement_id}")
    return found


def page(tx: Tx, *, project: ProjectId, limit: int, after: JudgementId | None) -> list[Judgement]:
    """Newest first."""
    query = select(Judgement).where(Judgement.project_id == project)
    if after is not None:
        query = query.where(Judgement.id < after)
    return list(tx.scalars(query.order_by(Judgement.id.desc()).limit(limit)))


def verdicts_of(row: Judgement) -> tuple[Verdict, ...]:
    return tuple(Verdict(**_fields(verdict)) for verdict in row.verdicts)


def _fields(verdict: dict[str, Any]) -> dict[str, Any]:
    return {name: verdict[name] for name in Verdict._fields}
