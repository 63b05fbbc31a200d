"""A real API server with its controllers, a namespace of a test's own in it, and the operator as a process.

The operator acts as a service account that has the chart's Role and nothing else.
"""

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kube
import pytest
import yaml
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core import jobs
from bitsmith_core.ids import JobId
from kube import Kube
from kubelet import Kubelet
from releases import CHART, HELM
from sqlalchemy import text

from tests.worker.conftest import Platform, platform, until  # noqa: F401  # fixtures

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "operator" / "src" / "bitsmith_operator" / "crds"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    try:
        with kube.running(tmp_path_factory.mktemp("kube")) as found:
            install_definitions(found)
            yield found
    except kube.BinariesAbsent as problem:
        pytest.fail(str(problem), pytrace=False)


def install_definitions(cluster: Kube) -> None:
    cluster("apply", "-f", str(CRDS))
    cluster("wait", "crd", "--all", "--for=condition=established", "--timeout=60s")


class Scene:
    def __init__(self, cluster: Kube, platform: Platform) -> None:  # noqa: F811
        self.cluster, self.platform = cluster, platform
        self.namespace = f"t-{secrets.token_hex(4)}"
        cluster("create", "namespace", self.namespace)
        self.role = chart_role(self.namespace)
        cluster.apply(*self.role)
        (account,) = (each["metadata"]["name"] for each in self.role if each["kind"] == "ServiceAccount")
        token = cluster("create", "token", account, "-n", self.namespace).strip()
        self.kubeconfig = cluster.config(self.namespace, token)
        self.operators = 0

    def operator(self, **settings: str) -> Child:
        self.operators += 1
        given = {
            "NAMESPACES": json.dumps([self.namespace]),
            "PODS": json.dumps({"image": "bitsmith-worker:test", "security": {"runAsUser": 10001}}),
            "KUBECONFIG": str(self.kubeconfig),
            "INTERVAL_S": "0.2",
            "GONE_AFTER_S": "1",
            **settings,
        }
        environment = {
            "BITSMITH_DATABASE_URL": self.platform.database_url,
            **{f"BITSMITH_OPERATOR_{name}": value for name, value in given.items()},
        }
        command = [sys.executable, "-m", "bitsmith_operator.main"]
        name = f"operator-{self.operators}"
        child = Child(
            ChildSpec(name=name, command=command, is_ready=lambda: True, environment=environment), self.platform.folder
        )
        child.start()
        self.platform.children.append(child)
        return child

    def kubelet(self, **environment: str) -> Kubelet:
        def start(name: str, settings: dict[str, str]) -> Child:
            ours = {"BITSMITH_WORKER_SCRATCH": str(self.platform.folder / name), **environment}
            return self.platform.start_worker(name, **{**settings, **ours})

        return Kubelet(self.cluster, self.namespace, start)

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        self.cluster.apply({"apiVersion": "bitsmith.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})

    def request(self, **metadata: str) -> dict[str, Any]:
        with self.platform.database.transaction() as tx:
            training, validation = (self.platform.file(tx, f"{name}.jsonl") for name in ("training", "validation"))
        return {
            "model": "local:base", "training_file": training, "validation_file": validation, "metadata": metadata,
        }  # fmt: skip

    def status(self, plural: str, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.cluster.get(plural, self.namespace, name).get("status", {})
        return status

    def until(self, condition: Callable[[], bool], what: str, *, within_s: float = 90.0) -> None:
        until(condition, within_s=within_s, what=what)

    def until_phase(self, name: str, phase: str) -> None:
        self.until(lambda: self.status("finetunejobs", name).get("phase") == phase, f"{name} becoming {phase}")

    def job_ids(self) -> list[JobId]:
        with self.platform.database.transaction() as tx:
            return [JobId(each) for each in tx.scalars(text("SELECT id FROM jobs ORDER BY created_at"))]

    def busy(self) -> set[str]:
        with self.platform.database.transaction() as tx:
            return jobs.workers.at_work(tx, list(self.cluster.pods(self.namespace)))


def chart_role(namespace: str) -> list[dict[str, Any]]:
    """What the chart lets the operator do, rendered by helm."""
    if not HELM.exists():
        pytest.fail(f"{HELM.relative_to(ROOT)} is absent; make test-k8s fetches it", pytrace=False)
    template = "templates/operator/rbac.yaml"
    command = [str(HELM), "template", "rel", str(CHART), "-n", namespace]
    chosen = ["--set", "operator.enabled=true", "-s", template]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(done.stdout) if body]


@pytest.fixture
def scene(cluster: Kube, platform: Platform) -> Iterator[Scene]:  # noqa: F811
    scene = Scene(cluster, platform)
    yield scene
    cluster("delete", "namespace", scene.namespace, "--wait=false")
