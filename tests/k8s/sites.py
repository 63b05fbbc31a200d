"""A release whose servers are outside of the cluster and its own, and whose programs really run."""

import json
import secrets
import sys
from pathlib import Path
from typing import Any

import psycopg
import yaml
from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.ids import JobId
from bitsmith_core.settings import DatabaseSettings
from bitsmith_operator.manifests import POOL_LABEL
from bitsmith_operator.objects import GROUP, VERSION
from kube import Kube
from pydantic import SecretStr
from releases import Release
from sqlalchemy import make_url, text

from tests.worker.conftest import ENGINE, Platform, until

RUNNING = frozenset({"secrets", "migrate", "scheduler", "operator", "pool-worker"})


class Site:
    """Starts empty: a namespace with the Secrets that the values name, and a database without a table."""

    def __init__(self, cluster: Kube, platform: Platform, namespace: str, *, number: int) -> None:
        self.cluster, self._platform = cluster, platform
        self.release = Release(cluster=cluster, namespace=namespace)
        self.database_name = f"site_{secrets.token_hex(4)}"
        self._shared = make_url(platform.database_url)
        self._admin(f"CREATE DATABASE {self.database_name}")
        url = self._shared.set(database=self.database_name).render_as_string(hide_password=False)
        self.database = Database(DatabaseSettings(url=SecretStr(url)))
        self._make_secret("database", url=url)
        self._make_secret("queue", url=f"{platform.queue_url.rpartition('/')[0]}/{number}")
        key, word = platform.storage.access_key, platform.storage.secret_key.get_secret_value()
        self._make_secret("store", **{"access-key": key, "secret-key": word})
        room = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        self._make({"kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": room})
        self.values = platform.folder / f"{namespace}.yaml"
        self.values.write_text(yaml.safe_dump(self._values()))

    def end(self) -> None:
        """Pools first: pods that are given minutes to leave hold a namespace for as long."""
        try:
            self.cluster.run("delete", "workerpool", "--all", "-n", self.release.namespace)
            self.until_workers(0)
            self.release.run("uninstall", self.release.name, "--ignore-not-found", "--wait")
        finally:
            self.database.close()
            self._admin(f"DROP DATABASE {self.database_name} WITH (FORCE)")

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        self._make({"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec})

    def submit(self, name: str, **metadata: str) -> None:
        with self.database.transaction() as tx:
            training, validation = (self._platform.file(tx, f"{each}.jsonl") for each in ("training", "validation"))
        request = {"training_file": training, "validation_file": validation, "metadata": metadata}
        self.apply("FineTuneJob", name, {"model": "local:base", **request})

    def until_phase(self, name: str, phase: str) -> None:
        def has_it() -> bool:
            found = self.cluster.get("finetunejobs", self.release.namespace, name)
            return bool(found.get("status", {}).get("phase") == phase)

        until(has_it, within_s=90, what=f"{name} becoming {phase}")

    def until_workers(self, count: int) -> None:
        until(lambda: len(self.pool_pods()) == count, within_s=60, what=f"{count} pods of pools")

    def pool_pods(self) -> list[str]:
        found = self.cluster.core.list_namespaced_pod(self.release.namespace, label_selector=POOL_LABEL)
        return [pod.metadata.name for pod in found.items]

    def jobs(self) -> list[jobs.Job]:
        with self.database.transaction() as tx:
            found = tx.scalars(text("SELECT id FROM jobs ORDER BY created_at"))
            return [jobs.get(tx, JobId(each)) for each in found]

    def operator(self) -> Path:
        """A kubeconfig of the operator's own."""
        account = f"{self.release.name}-bitsmith-operator"
        token = self.cluster("create", "token", account, "-n", self.release.namespace).strip()
        return self.cluster.config(f"{self.release.namespace}-operator", token)

    def _make_secret(self, name: str, **texts: str) -> None:
        self._make({"kind": "Secret", "metadata": {"name": name}, "stringData": texts})

    def _make(self, body: dict[str, Any]) -> None:
        metadata = {**body["metadata"], "namespace": self.release.namespace}
        self.cluster.apply({"apiVersion": "v1", **body, "metadata": metadata})

    def _admin(self, statement: str) -> None:
        url = self._shared.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _values(self) -> dict[str, Any]:
        storage = self._platform.storage
        quick = {"lease_s": 10, "heartbeat_s": 0.3, "engine_stop_s": 1, "metrics_every_s": 0.2, "log_every_s": 0.2}
        return {
            "postgresql": {"mode": "external", "existingSecret": "database"},
            "redis": {"mode": "external", "existingSecret": "queue"},
            "objectStore": {
                "mode": "external", "existingSecret": "store", "endpoint": storage.endpoint, "secure": False,
                "bucket": storage.bucket,
            },
            "scheduler": {"replicas": 1, "settings": {"interval_s": 0.1}},
            "serving": {"enabled": False},
            "workerPools": {"cpu": {"enabled": False}},
            "workerDefaults": {
                "models": {"existingClaim": "models"}, "settings": quick,
                "extraEnv": {"BITSMITH_WORKER_ENGINE": json.dumps([sys.executable, str(ENGINE)])},
            },
            "operator": {
                "enabled": True, "workerImage": "worker", "settings": {"interval_s": 0.2, "gone_after_s": 1},
            },
        }  # fmt: skip
