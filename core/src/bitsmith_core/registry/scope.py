"""Which models a project may read: its own, and those that other projects share with the installation."""

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import aliased

from bitsmith_core.db import Tx
from bitsmith_core.db.models import Model, Version
from bitsmith_core.ids import ProjectId

SHARED = "installation"


def readable(tx: Tx, project: ProjectId) -> ColumnElement[bool]:
    """A condition on Model: each name leads to one model, the project's own before one that others share.

    Of two projects that share a name, the model that was there first has it. While nobody shares anything, which is
    asked first, lists read the index of the project's own names.
    """
    is_own = Model.project_id == project
    is_shared = Model.visibility == SHARED
    if not tx.scalar(select(exists().where(is_shared, Model.project_id != project))):
        return is_own
    other = aliased(Model)
    is_there = exists().where(Version.model_id == other.id, Version.is_newest)
    has_the_name = or_(other.project_id == project, and_(other.visibility == SHARED, other.id < Model.id))
    return or_(is_own, and_(is_shared, ~exists().where(other.name == Model.name, has_the_name, is_there)))
