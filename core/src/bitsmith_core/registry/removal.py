"""Versions and models are deleted here, by their project, and never while an alias points at them."""

from bitsmith_core.db import Tx
from bitsmith_core.errors import Conflict
from bitsmith_core.ids import ProjectId
from bitsmith_core.registry import aliases, lookup, repository


def delete(tx: Tx, name: str, number: int | None = None, *, project: ProjectId) -> None:
    """Forget a version, or the model with all of them; the janitor takes the files.

    The jobs stay, and say in their history what they published. The numbers are never given again, not even to a model
    that is published under the same name later.

    Raises:
        NotFound: the project has no such model or version.
        Conflict: an alias points at it.
    """
    repository.lock_name(tx, name, project=project)
    owner = lookup.own_model(tx, name, project=project)
    all_numbers = repository.numbers(tx, owner)
    gone = all_numbers if number is None else [lookup.number_of(tx, owner, number)]
    pointing = aliases.pointing_at(tx, owner.id, gone)
    if pointing:
        told = ", ".join(f"{name}@{alias} at {name}@{at}" for alias, at in pointing.items())
        raise Conflict(f"aliases point at what would be deleted ({told}); move them or delete them first")
    repository.remove(tx, owner, gone)
    if len(gone) == len(all_numbers):
        repository.remove_model(tx, owner)
