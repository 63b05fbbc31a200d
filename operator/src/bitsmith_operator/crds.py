"""The CustomResourceDefinitions, made of the models: `python -m bitsmith_operator.crds FOLDER` writes them.

The chart carries copies; a test compares both with what this makes.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from bitsmith_core.spec import JobSpec

from bitsmith_operator.objects import GROUP, VERSION, FineTuneJobSpec, WorkerPoolSpec
from bitsmith_operator.schema import structural

# Rules may ask for what has a type only.
_STATUS: dict[str, Any] = {
    "type": "object",
    "properties": {"jobId": {"type": "string"}},
    "x-kubernetes-preserve-unknown-fields": True,
}


def finetunejobs() -> dict[str, Any]:
    request, own = structural(JobSpec), structural(FineTuneJobSpec)
    spec = {
        "type": "object",
        "description": "A job as the REST API takes it. It does not change afterwards but for suspend, priority, "
        "ttlSecondsAfterFinished and deletionPolicy.",
        "properties": request["properties"] | own["properties"],
        "required": ["model"],
    }
    return _definition(
        kind="FineTuneJob",
        plural="finetunejobs",
        short=["ftj"],
        spec=spec,
        columns=[
            ("Phase", "string", ".status.phase"),
            ("Stage", "string", ".status.stage"),
            ("Progress", "string", ".status.progress"),
            ("Model", "string", ".status.modelVersion"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ],
    )


def workerpools() -> dict[str, Any]:
    return _definition(
        kind="WorkerPool",
        plural="workerpools",
        short=["wp"],
        spec=structural(WorkerPoolSpec),
        columns=[
            ("Pool", "string", ".spec.pool"),
            ("Workers", "integer", ".status.workers"),
            ("Ready", "integer", ".status.ready"),
            ("Busy", "integer", ".status.busy"),
            ("Wanted", "integer", ".status.wanted"),
            ("Max", "integer", ".spec.maxWorkers"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ],
        scale={"specReplicasPath": ".spec.minWorkers", "statusReplicasPath": ".status.workers",
               "labelSelectorPath": ".status.selector"},
    )  # fmt: skip


def _definition(
    *,
    kind: str,
    plural: str,
    short: list[str],
    spec: dict[str, Any],
    columns: list[tuple[str, str, str]],
    scale: dict[str, str] | None = None,
) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(),
                      "shortNames": short, "categories": ["bitsmith"]},
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}} | ({"scale": scale} if scale else {}),
                    "additionalPrinterColumns": [
                        {"name": name, "type": type_, "jsonPath": path} for name, type_, path in columns
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "required": ["spec"],
                            "properties": {"spec": spec, "status": _STATUS},
                        }
                    },
                }
            ],
        },
    }  # fmt: skip


def render() -> dict[str, str]:
    """File name to YAML."""
    made = {"finetunejobs.yaml": finetunejobs(), "workerpools.yaml": workerpools()}
    return {name: yaml.safe_dump(body, sort_keys=False, width=120) for name, body in made.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for file_name, content in render().items():
        (folder / file_name).write_text(content)
