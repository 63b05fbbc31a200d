"""The registry as methods: find models, read versions, point aliases, download files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitsmith_client.sdk import download
from bitsmith_client.sdk.answers import Model, Version
from bitsmith_client.sdk.pages import listed, segment
from bitsmith_client.sdk.registry import Alias, AliasMove, AliasVerdict, Comparison, Facets, Lineage
from bitsmith_client.sdk.transport import Transport

ANY = "*"
"""As a revision: whichever it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFilter:
    """Empty: every model. What is named must all hold."""

    text: str = ""
    base_models: Sequence[str] = ()
    schemes: Sequence[str] = ()
    methods: Sequence[str] = ()
    tasks: Sequence[str] = ()
    licences: Sequence[str] = ()
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    min_bpw: float | None = None
    max_bpw: float | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    min_scores: Mapping[str, float] = field(default_factory=dict)  # by task
    max_scores: Mapping[str, float] = field(default_factory=dict)

    def query(self) -> dict[str, Any]:
        """As the API takes it."""
        found: dict[str, Any] = {
            "q": self.text,
            "base_model": list(self.base_models),
            "scheme": list(self.schemes),
            "method": list(self.methods),
            "task": list(self.tasks),
            "licence": list(self.licences),
            "tag": list(self.tags),
            "dataset": list(self.datasets),
        }
        ends = {
            "bpw[gte]": self.min_bpw,
            "bpw[lte]": self.max_bpw,
            "size_bytes[gte]": self.min_bytes,
            "size_bytes[lte]": self.max_bytes,
            **{f"score[{task}][gte]": value for task, value in self.min_scores.items()},
            **{f"score[{task}][lte]": value for task, value in self.max_scores.items()},
        }
        asked = {name: value for name, value in found.items() if value}
        return asked | {name: str(value) for name, value in ends.items() if value is not None}


EVERYTHING = ModelFilter()


class Models:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = 20, wanted: ModelFilter = EVERYTHING, sort: str = "name") -> list[Model]:
        """
        Args:
            sort: name, created_at, size_bytes, bpw or score:TASK; a - before it turns it.
        """
        return listed(self._transport, "/v1/models", Model, limit=limit, query={**wanted.query(), "sort": sort})

    def facets(self, wanted: ModelFilter = EVERYTHING) -> Facets:
        """What there is to filter by, with counts."""
        return Facets.model_validate(self._transport.get("/v1/models/facets", wanted.query()))

    def best(self, wanted: ModelFilter = EVERYTHING, *, keeps: float | None = None, task: str | None = None) -> Version:
        """The smallest version of all that meets every filter.

        Args:
            keeps: also this share of its own float base's score in `task`.

        Raises:
            ApiError: not_found, if none does.
        """
        kept = {} if keeps is None else {"keeps": str(keeps), "task": task or ""}
        return Version.model_validate(self._transport.get("/v1/models/best", {**wanted.query(), **kept}))

    def get(self, name: str) -> Model:
        """With its newest versions, at most 100; `name@2` and `name@alias` with that one."""
        return Model.model_validate(self._transport.get(f"/v1/models/{segment(name)}"))

    def versions(self, name: str, *, limit: int | None = None) -> Sequence[Version]:
        """Newest first, without files."""
        return listed(self._transport, f"/v1/models/{segment(name)}/versions", Version, limit=limit)

    def version(self, name: str, number: int) -> Version:
        """With files and fresh download links."""
        return Version.model_validate(self._transport.get(self.version_path(name, number)))

    def resolve(self, reference: str) -> Version:
        """The version that `name` (its newest), `name@2` or `name@alias` means, with files and links."""
        found = self.get(reference).latest
        assert found is not None, "a model that is there has a version"
        return self.version(found.model, found.version)

    def latest(self, name: str) -> Version:
        return self.resolve(name)

    def change(self, name: str, changes: Mapping[str, Any], *, revision: int | None = None) -> Model:
        """display_name, task, visibility, licence, card, tags, gates; what is left out stays.

        Args:
            revision: of the model as it was seen; None: whichever it is.

        Raises:
            ApiError: precondition_failed, if somebody else changed it meanwhile.
        """
        answer = self._transport.patch(
            f"/v1/models/{segment(name)}", dict(changes), if_match=ANY if revision is None else f'"{revision}"'
        )
        return Model.model_validate(answer)

    def tag(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> Model:
        seen = self.get(name)
        tags = sorted((set(seen.tags) | set(add)) - set(remove))
        return self.change(name, {"tags": tags}, revision=seen.revision)

    def card(self, reference: str) -> str:
        """The generated model card of a version, in markdown."""
        found = self.get(reference).latest
        assert found is not None, "a model that is there has a version"
        return self._transport.text(f"{self.version_path(found.model, found.version)}/card")

    def lineage(self, name: str, number: int) -> Lineage:
        return Lineage.model_validate(self._transport.get(f"{self.version_path(name, number)}/lineage"))

    def compare(self, a: str, b: str, *, confidence: float = 0.95) -> Comparison:
        """Paired, task by task, from the items that both were asked; every number is a's minus b's, every verdict a's.

        Args:
            a, b: name@3, name@alias or name; `:float` behind it is what the version was made from.
        """
        query = {"a": a, "b": b, "confidence": str(confidence)}
        return Comparison.model_validate(self._transport.get("/v1/evals/compare", query))

    def aliases(self, name: str) -> Sequence[Alias]:
        answer = self._transport.get(f"/v1/models/{segment(name)}/aliases")
        return [Alias.model_validate(found) for found in answer["data"]]

    def point(self, name: str, alias: str, version: int | str, *, reason: str | None = None) -> Alias:
        """Make the alias, or move it from where it points now.

        Raises:
            ApiError: gate_refused; precondition_failed, if somebody else moved it meanwhile.
        """
        return Alias.model_validate(self._put(name, alias, {"version": version, "reason": reason}))

    def try_point(self, name: str, alias: str, version: int | str) -> AliasVerdict:
        """What the alias' gate finds; nothing is moved."""
        return AliasVerdict.model_validate(self._put(name, alias, {"version": version, "dry_run": True}))

    def _put(self, name: str, alias: str, body: dict[str, Any]) -> dict[str, Any]:
        seen = {found.alias: found.revision for found in self.aliases(name)}
        headers = {"If-Match": f'"{seen[alias]}"'} if alias in seen else {"If-None-Match": ANY}
        return self._transport.put(f"/v1/models/{segment(name)}/aliases/{segment(alias)}", body, headers=headers)

    def remove_alias(self, name: str, alias: str) -> None:
        self._transport.delete(f"/v1/models/{segment(name)}/aliases/{segment(alias)}", if_match=ANY)

    def alias_history(self, name: str, alias: str, *, limit: int | None = 20) -> Sequence[AliasMove]:
        """Newest first."""
        path = f"/v1/models/{segment(name)}/aliases/{segment(alias)}/history"
        return listed(self._transport, path, AliasMove, limit=limit)

    def delete(self, name: str) -> None:
        """For good: a version (`name@2`), or the model with all of them.

        Raises:
            ApiError: conflict, while an alias points at it.
        """
        self._transport.delete(f"/v1/models/{segment(name)}")

    def download(
        self,
        version: Version,
        folder: Path,
        *,
        wanted: Callable[[str], bool] = lambda path: True,
        on_bytes: Callable[[int], None] = lambda received: None,
    ) -> Sequence[Path]:
        """Every wanted file of the version into folder, verified; what is there and complete is not fetched again.

        Raises:
            CorruptDownload: naming the file; nothing broken is left under a final name.
        """
        return download.fetch(
            self._transport,
            version,
            folder,
            wanted=wanted,
            on_bytes=on_bytes,
            fresh=lambda: self.version(version.model, version.version),
        )

    @staticmethod
    def version_path(name: str, number: int) -> str:
        return f"/v1/models/{segment(name)}/versions/{number}"
