"""What people write about a model: its card, tags, licence, task, gates; and who may read it."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, update

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Model
from bitsmith_core.errors import PreconditionFailed
from bitsmith_core.ids import ProjectId
from bitsmith_core.registry import lookup

CHANGEABLE = frozenset({"display_name", "task", "visibility", "licence", "card", "tags", "gates"})


def change(tx: Tx, name: str, changes: Mapping[str, Any], *, revision: int | None, project: ProjectId) -> Model:
    """The model with these columns as given; no column, no change.

    Args:
        revision: of the model as it was seen; None: whichever it is.

    Raises:
        NotFound: the project has no such model.
        PreconditionFailed: somebody else changed it meanwhile.
    """
    unknown = changes.keys() - CHANGEABLE
    if unknown:
        raise ValueError(f"{sorted(unknown)} are not for people to change")
    owner = lookup.own_model(tx, name, project=project)
    if revision not in (None, owner.revision):
        raise PreconditionFailed(f'model {name!r} has changed since: its ETag is "{owner.revision}" now')
    if not changes:
        return owner
    values = {**changes, "revision": Model.revision + 1, "updated_at": func.now()}
    changed = update(Model).where(Model.id == owner.id).values(**values).returning(Model)
    return tx.scalars(changed.execution_options(populate_existing=True)).one()
