"""What a version holds, for those who download it: found by number, alias or commit, laid out as a repository."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import defer, selectinload

from bitsmith_core.bundle import Manifest
from bitsmith_core.db import Tx
from bitsmith_core.db.models import EvalResult, Model, Version, VersionFile
from bitsmith_core.errors import NotFound
from bitsmith_core.registry import card, lookup
from bitsmith_core.registry.card import EXPORT
from bitsmith_core.registry.front_matter import Value

NEWEST = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFERENCE = re.compile(r"[1-9][0-9]{0,8}|[A-Za-z_.-][\w.-]{0,199}", re.ASCII)  # a number, or what an alias may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    model: Model
    version: Version  # without its manifest

    @property
    def commit(self) -> str:
        """What Hugging Face's hub calls a revision that never changes."""
        return self.version.manifest_sha256[:40]

    @property
    def files(self) -> dict[str, VersionFile]:
        return {file.path: file for file in self.version.files}


def at(tx: Tx, model: Model, revision: str | int) -> Contents:
    """
    Args:
        revision: main (the newest version), a number, an alias, or a commit.

    Raises:
        NotFound: the model has no such version.
    """
    version = select(Version).where(Version.model_id == model.id)
    if revision == NEWEST:
        version = version.where(Version.is_newest)
    elif isinstance(revision, str) and _COMMIT.fullmatch(revision):
        # Of two versions with equal files it does not matter which one is read.
        version = version.where(Version.manifest_sha256.startswith(revision)).order_by(Version.number.desc())
    elif isinstance(revision, str) and not _REFERENCE.fullmatch(revision):
        raise NotFound(f"model {model.name!r} has no version {revision!r}; ask for a number or an alias")
    else:
        version = version.where(Version.number == lookup.number_of(tx, model, revision))
    options = defer(Version.manifest, raiseload=True), selectinload(Version.files)
    found = tx.scalar(version.options(*options).limit(1))
    if found is None:
        raise NotFound(f"model {model.name!r} has no version with the commit {revision}")
    return Contents(model=model, version=found)


def readme(tx: Tx, found: Contents) -> str:
    """The version's model card."""
    return card.render(found.model, found.version, *_measured(tx, found))


def metadata(tx: Tx, found: Contents) -> dict[str, Value]:
    """What the card begins with."""
    manifest, scores = _measured(tx, found)
    return card.metadata(found.model, found.version, manifest, card.newest(scores))


def _measured(tx: Tx, found: Contents) -> tuple[Manifest, list[EvalResult]]:
    """The manifest, and all scores in the order in which they were recorded."""
    manifest = tx.scalars(select(Version.manifest).where(Version.id == found.version.id)).one()
    scores = select(EvalResult).where(EvalResult.version_id == found.version.id).order_by(EvalResult.id)
    return Manifest.model_validate(manifest), list(tx.scalars(scores))


def as_repository(files: Mapping[str, VersionFile], *, native: bool) -> dict[str, VersionFile]:
    """The files by the paths of a hub repository: of the folder that transformers loads, which is the root then.

    Args:
        native: the bundle as it is. A bundle without that folder always comes as it is.
    """
    exported = {path.removeprefix(EXPORT): file for path, file in files.items() if path.startswith(EXPORT)}
    return dict(files) if native or not exported else exported


def folders(paths: Iterable[str]) -> set[str]:
    """Every folder that holds one of the paths, at whatever depth."""
    found: set[str] = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return found
