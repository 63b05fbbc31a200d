"""A cluster in memory: what the operator asks of one, and `apply` for people."""

import copy
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bitsmith_operator.cluster import Cluster, Refused
from bitsmith_operator.manifests import POOL_LABEL
from bitsmith_operator.objects import GROUP, VERSION


class ToyCluster(Cluster):
    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {"finetunejobs": {}, "workerpools": {}}
        self.pods: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.server = (1, 33)
        self.writes: list[str] = []
        self.refusal: str | None = None

    def list_objects(self, plural: str, namespace: str) -> list[dict[str, Any]] | None:
        if plural not in self.objects:
            return None
        here = self.objects[plural].values()
        return copy.deepcopy([body for body in here if body["metadata"]["namespace"] == namespace])

    def write_status(self, plural: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        self.writes.append(name)
        body = self.objects[plural].get(name)
        if body is not None:
            merged = {**body.get("status", {}), **status}
            body["status"] = {key: value for key, value in merged.items() if value is not None}

    def delete_object(self, plural: str, namespace: str, name: str, *, uid: str) -> None:
        if self.objects[plural].get(name, {}).get("metadata", {}).get("uid") == uid:
            del self.objects[plural][name]

    def list_pods(self, namespace: str) -> list[dict[str, Any]]:
        return copy.deepcopy([pod for pod in self.pods.values() if POOL_LABEL in pod["metadata"]["labels"]])

    def create_pod(self, manifest: dict[str, Any]) -> None:
        if self.refusal is not None:
            raise Refused(self.refusal)
        pod = copy.deepcopy(manifest)
        pod["metadata"]["creationTimestamp"] = datetime.now(UTC).isoformat()
        self.pods[pod["metadata"]["name"]] = pod

    def delete_pod(self, namespace: str, name: str) -> None:
        self.pods.pop(name, None)

    def version(self) -> tuple[int, int]:
        return self.server

    def list_jobs(self, namespace: str) -> list[dict[str, Any]]:
        return copy.deepcopy(list(self.jobs.values()))

    def create_job(self, manifest: dict[str, Any]) -> None:
        if self.refusal is not None:
            raise Refused(self.refusal)
        job = copy.deepcopy(manifest)
        job["metadata"]["uid"] = str(uuid4())
        self.jobs[job["metadata"]["name"]] = job

    def delete_job(self, namespace: str, name: str) -> None:
        self.jobs.pop(name, None)

    def list_services(self, namespace: str) -> list[dict[str, Any]]:
        return copy.deepcopy(list(self.services.values()))

    def create_service(self, manifest: dict[str, Any]) -> None:
        self.services[manifest["metadata"]["name"]] = copy.deepcopy(manifest)

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        """kubectl apply: a new object, or another spec for the one of that name."""
        here = self.objects[f"{kind.lower()}s"]
        body = here.get(name)
        if body is None:
            metadata = {"name": name, "namespace": "ft", "uid": str(uuid4()), "generation": 0}
            body = here[name] = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": metadata}
        body["spec"] = spec
        body["metadata"]["generation"] += 1
        return body
