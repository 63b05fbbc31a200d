"""Names that point at one version of a model and may be moved: who moved them, when and why, and who may not.

Two people who move an alias at once do not overwrite each other: each says which revision they saw. A gate is judged
between two transactions, for it reads files: `intend` says what is to happen, `move` does it if nothing has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Alias, AliasMove, Model
from bitsmith_core.errors import GateRefused, NotFound, PreconditionFailed
from bitsmith_core.ids import ModelId, ProjectId
from bitsmith_core.registry import lookup, repository
from bitsmith_core.registry.gates import GATES, Gate, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What somebody believes of an alias who wants to change it."""

    revision: int | None = None  # None: whichever it is
    is_new: bool = False  # there is none of that name yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A move that nothing speaks against, but for the gate."""

    model: str
    model_id: ModelId
    alias: str
    current: int | None  # where it points; None: it is made
    revision: int | None
    number: int  # where it shall point
    gate: Gate | None

    @property
    def candidate(self) -> str:
        return f"{self.model}@{self.number}"


def of_model(tx: Tx, owner: Model) -> list[Alias]:
    """By name."""
    return list(tx.scalars(select(Alias).where(Alias.model_id == owner.id).order_by(Alias.name)))


def get(tx: Tx, owner: Model, name: str) -> Alias:
    """
    Raises:
        NotFound: the model has no such alias.
    """
    found = _find(tx, owner.id, name)
    if found is None:
        raise NotFound(f"model {owner.name!r} has no alias {name!r}")
    return found


def intend(tx: Tx, name: str, alias: str, version: str | int, *, seen: Seen, project: ProjectId) -> Intent:
    """
    Raises:
        NotFound: the project has no such model, or it has no such version.
        PreconditionFailed: the alias is not as it was seen.
    """
    owner = lookup.own_model(tx, name, project=project)
    found = _as_seen(tx, owner, alias, seen)
    return Intent(
        model=name,
        model_id=owner.id,
        alias=alias,
        current=None if found is None else found.number,
        revision=None if found is None else found.revision,
        number=lookup.number_of(tx, owner, version),
        gate=_gate(owner, alias),
    )


def move(tx: Tx, intent: Intent, *, project: ProjectId, actor: str, reason: str | None, report: Report | None) -> Alias:
    """The alias as it is then. Moving it to where it points already changes nothing.

    Args:
        report: what the intent's gate found; None: there is no gate.

    Raises:
        GateRefused: the gate found a loss.
        PreconditionFailed: the alias or its gate changed meanwhile.
    """
    if report is not None and not report.passed:
        raise GateRefused(report.summary, report=report.as_json())
    repository.lock_name(tx, intent.model, project=project)  # nobody deletes the version meanwhile
    owner = lookup.own_model(tx, intent.model, project=project)
    if _gate(owner, intent.alias) != intent.gate:
        raise PreconditionFailed(f"the gate of {intent.model}@{intent.alias} changed meanwhile; ask again")
    number = lookup.number_of(tx, owner, intent.number)
    if number == intent.current:
        return _as_intended(tx, intent)
    moved = _make(tx, intent, actor) if intent.revision is None else _point(tx, intent, intent.revision, actor)
    if moved is None:
        raise PreconditionFailed(f"somebody else moved {intent.model}@{intent.alias} meanwhile; look at it again")
    _note(tx, intent.model_id, intent.alias, intent.current, number, actor, reason, report)
    return moved


def remove(
    tx: Tx, name: str, alias: str, *, seen: Seen, project: ProjectId, actor: str, reason: str | None = None
) -> None:
    """Take the alias away; its history stays.

    Raises:
        NotFound: the project has no such model, or it has no such alias.
        PreconditionFailed: the alias is not as it was seen.
    """
    owner = lookup.own_model(tx, name, project=project)
    found = get(tx, owner, alias)
    _as_seen(tx, owner, alias, seen)
    tx.execute(delete(Alias).where(Alias.model_id == owner.id, Alias.name == alias))
    _note(tx, owner.id, alias, found.number, None, actor, reason, None)


def history(tx: Tx, owner: Model, alias: str, *, limit: int, after: int | None = None) -> list[AliasMove]:
    """Newest first; the cursor is the last id seen.

    Raises:
        NotFound: there never was such an alias.
    """
    query = select(AliasMove).where(AliasMove.model_id == owner.id, AliasMove.alias == alias)
    if after is not None:
        query = query.where(AliasMove.id < after)
    moves = list(tx.scalars(query.order_by(AliasMove.id.desc()).limit(limit)))
    if not moves and after is None:
        raise NotFound(f"model {owner.name!r} never had an alias {alias!r}")
    return moves


def pointing_at(tx: Tx, model_id: ModelId, numbers: Sequence[int]) -> dict[str, int]:
    """{alias: number} of those that point at one of these versions."""
    query = select(Alias.name, Alias.number).where(Alias.model_id == model_id, Alias.number.in_(numbers))
    return dict(tx.execute(query.order_by(Alias.name)).all())


def _find(tx: Tx, model_id: ModelId, name: str) -> Alias | None:
    return tx.get(Alias, (model_id, name), populate_existing=True)


def _as_seen(tx: Tx, owner: Model, alias: str, seen: Seen) -> Alias | None:
    found = _find(tx, owner.id, alias)
    if found is not None and seen.is_new:
        raise PreconditionFailed(
            f"{owner.name}@{alias} is there already, at version {found.number}; send its ETag in If-Match to move it"
        )
    if found is None and not seen.is_new:
        raise PreconditionFailed(f"there is no alias {owner.name}@{alias} yet; send If-None-Match: * to make it")
    if found is not None and seen.revision not in (None, found.revision):
        raise PreconditionFailed(
            f'{owner.name}@{alias} has changed since: it points at version {found.number}, revision "{found.revision}"'
        )
    return found


def _as_intended(tx: Tx, intent: Intent) -> Alias:
    found = _find(tx, intent.model_id, intent.alias)
    if found is None or found.revision != intent.revision:
        raise PreconditionFailed(f"somebody else moved {intent.model}@{intent.alias} meanwhile; look at it again")
    return found


def _make(tx: Tx, intent: Intent, actor: str) -> Alias | None:
    values = {"model_id": intent.model_id, "name": intent.alias, "number": intent.number, "updated_by": actor}
    return tx.scalar(insert(Alias).values(**values).on_conflict_do_nothing().returning(Alias))


def _point(tx: Tx, intent: Intent, revision: int, actor: str) -> Alias | None:
    """One UPDATE decides who of several moves it."""
    is_it = (Alias.model_id == intent.model_id) & (Alias.name == intent.alias) & (Alias.revision == revision)
    values: dict[str, Any] = {
        "number": intent.number, "revision": revision + 1, "updated_at": func.now(), "updated_by": actor,
    }  # fmt: skip
    moved = update(Alias).where(is_it).values(**values).returning(Alias)
    return tx.scalar(moved.execution_options(populate_existing=True))


def _note(
    tx: Tx,
    model_id: ModelId,
    alias: str,
    old: int | None,
    new: int | None,
    actor: str,
    reason: str | None,
    report: Report | None,
) -> None:
    gate = None if report is None else report.as_json()
    move = AliasMove(
        model_id=model_id, alias=alias, from_number=old, to_number=new, actor=actor, reason=reason, gate=gate
    )
    tx.add(move)
    tx.flush()


def _gate(owner: Model, alias: str) -> Gate | None:
    return GATES.validate_python(owner.gates).get(alias)
