"""What the API server itself checks when an object is written, beyond its schema: rules in CEL. Pure.

The chart adds them to the definitions on servers that know them. Older ones drop them without a word; there the
operator says in the status of an object what is wrong with it.
"""

from bitsmith_core.spec import JobSpec

from bitsmith_operator.objects import WorkerPoolSpec
from bitsmith_operator.schema import structural

Rule = dict[str, str]

SINCE = "1.29"
"""The Kubernetes that all of this is stable in."""


def finetunejobs() -> list[Rule]:
    """What the job was made from stays as it is once there is a job; until then a mistake can be mended in place."""
    return [_stays(name) for name in structural(JobSpec)["properties"]]


def workerpools() -> list[Rule]:
    least, most = (
        _or_default(name, alias) for name, alias in (("min_workers", "minWorkers"), ("max_workers", "maxWorkers"))
    )
    return [_rule(f"{least} <= {most}", "is more than maxWorkers", "minWorkers")]


def of_definitions() -> dict[str, list[Rule]]:
    """By the file names of `crds.render`."""
    return {"finetunejobs.yaml": finetunejobs(), "workerpools.yaml": workerpools()}


def _stays(name: str) -> Rule:
    new, old = f"self.spec.{name}", f"oldSelf.spec.{name}"
    is_same = f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"
    is_open = "!has(oldSelf.status) || !has(oldSelf.status.jobId)"
    message = "does not change once the job is submitted; make another object for the new spec"
    return _rule(f"{is_open} || ({is_same})", message, name)


def _or_default(name: str, alias: str) -> str:
    """The value that the operator reads."""
    place, default = f"self.spec.{alias}", WorkerPoolSpec.model_fields[name].default
    return f"(has({place}) ? {place} : {default})"


def _rule(rule: str, message: str, field: str) -> Rule:
    return {"rule": rule, "message": f"{field} {message}", "fieldPath": f".spec.{field}"}
