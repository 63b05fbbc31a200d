"""Objects that `helm template` printed, and what one asks of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

POD_PATHS = {
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    name: str  # kind/object/container, for messages
    component: str
    is_ours: bool  # one of our programs, not an upstream server
    spec: Object

    @property
    def env(self) -> dict[str, Object]:
        return {variable["name"]: variable for variable in self.spec.get("env", [])}


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def component(each: Object) -> str:
    return str(each["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def named(objects: list[Object], kind: str, of: str) -> Object:
    """The one object of this kind that belongs to a component."""
    (found,) = (each for each in of_kind(objects, kind) if component(each) == of)
    return found


def pod(each: Object) -> Object:
    for key in POD_PATHS[each["kind"]]:
        each = each[key]
    return each


def workloads(objects: list[Object]) -> list[Object]:
    return of_kind(objects, *POD_PATHS)


def containers(objects: list[Object]) -> Iterator[Container]:
    for each in workloads(objects):
        for spec in [*pod(each).get("initContainers", []), *pod(each)["containers"]]:
            yield Container(
                name=f"{each['kind']}/{each['metadata']['name']}/{spec['name']}",
                component=component(each),
                is_ours="/bitsmith-" in f"/{spec['image']}",
                spec=spec,
            )
