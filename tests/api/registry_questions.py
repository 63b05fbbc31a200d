"""What people who browse the registry make the database do, for tests/api/test_query_plans.py."""

from collections.abc import Callable

from bitsmith_core import registry
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.registry import aliases, facets, lineage, lookup, search
from bitsmith_core.registry.filters import Range, Sort, VersionFilter

NAME = "model-000500"
NARROWED = VersionFilter(
    text="model", base_models=["hf:org/7"], bpw=Range(at_most=3), scores={"a": Range(at_least=0.4)}
)


def _owner(tx: Tx) -> registry.Model:
    return registry.get(tx, NAME, project=DEFAULT_PROJECT)


def _move(tx: Tx) -> None:
    """Made, moved, and its history read."""
    for number, seen in ((1, aliases.Seen(is_new=True)), (2, aliases.Seen())):
        intent = aliases.intend(tx, NAME, "prod", number, seen=seen, project=DEFAULT_PROJECT)
        aliases.move(tx, intent, project=DEFAULT_PROJECT, actor="key", reason=None, report=None)
    aliases.history(tx, _owner(tx), "prod", limit=20)
    aliases.remove(tx, NAME, "prod", seen=aliases.Seen(), project=DEFAULT_PROJECT, actor="key")


def _page(
    wanted: VersionFilter = search.EVERYTHING, *, sort: str = "name", after: str | None = None
) -> Callable[[Tx], object]:
    return lambda tx: search.page(
        tx, project=DEFAULT_PROJECT, limit=20, wanted=wanted, sort=Sort.parsed(sort), after=after
    )


POINTED: dict[str, Callable[[Tx], object]] = {
    "models before one": lambda tx: search.page(tx, project=DEFAULT_PROJECT, limit=20, before=NAME),
    "a version by its number": lambda tx: lookup.version(tx, NAME, 2, project=DEFAULT_PROJECT),
    "a model's versions": lambda tx: lookup.versions(tx, _owner(tx), limit=20),
    "an alias from its making to its end": _move,
    "a version's lineage": lambda tx: lineage.of_version(tx, NAME, 2, project=DEFAULT_PROJECT),
    "deleting a version": lambda tx: registry.delete(tx, NAME, 1, project=DEFAULT_PROJECT),
}
"""Answered from an index."""

BROWSED: dict[str, Callable[[Tx], object]] = {
    "models by size": _page(sort="-size_bytes"),
    "models by size, a deep page": _page(sort="size_bytes", after=NAME),
    "models by score": _page(sort="-score:a"),
    "models by score, a deep page": _page(sort="-score:a", after=NAME),
    "models, narrowed": _page(NARROWED, sort="bpw"),
    "facets": lambda tx: facets.facets(tx, project=DEFAULT_PROJECT, wanted=search.EVERYTHING),
    "facets, narrowed": lambda tx: facets.facets(tx, project=DEFAULT_PROJECT, wanted=NARROWED),
}
"""Must see each newest version once: by what nobody can foresee people sort, and count."""
