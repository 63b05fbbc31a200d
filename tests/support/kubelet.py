"""A kubelet for worker pods, without containers: each pod of a pool, or of its Jobs, is a worker's process here."""

import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bitsmith_client.lab.child import Child
from bitsmith_operator.manifests import POOL_LABEL
from kube import NODE, Kube
from kubernetes.client import ApiException

StartWorker = Callable[[str, dict[str, str]], Child]
"""Of a pod: its name, and the worker's settings that it spells out."""


class Kubelet:
    """Looks at the pods again and again: starts a worker under a new pod's name, stops that of one that leaves."""

    def __init__(self, kube: Kube, namespace: str, start_worker: StartWorker) -> None:
        self._core, self._namespace, self._start_worker = kube.core, namespace, start_worker
        self.workers: dict[str, Child] = {}
        self.ended: list[str] = []  # names of pods, in order
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> "Kubelet":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)
        for worker in self.workers.values():
            worker.kill()
        assert self._failure is None, self._failure

    def out_of_memory(self, name: str, *, at: str) -> None:
        """The kernel kills the worker, and its container starts anew."""
        worker = self.workers[name]
        worker.kill()
        ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": at, "startedAt": at}
        container = {
            "name": "worker", "image": "i", "imageID": "i", "ready": True, "restartCount": 1,
            "state": {"running": {"startedAt": at}}, "lastState": {"terminated": ended},
        }  # fmt: skip
        self._patch(name, {"containerStatuses": [container]})
        worker.start()

    def _work(self) -> None:
        while not self._is_over.wait(0.3):
            try:
                self._look()
            except Exception as error:  # a thread's; __exit__ tells it
                self._failure = error
                return

    def _look(self) -> None:
        for pod in self._core.list_namespaced_pod(self._namespace, label_selector=POOL_LABEL).items:
            name = pod.metadata.name
            if pod.spec.node_name is None:  # no scheduler is here
                target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
                body = {"metadata": {"name": name}, "target": target}
                with contextlib.suppress(ApiException):  # gone meanwhile
                    self._core.create_namespaced_binding(self._namespace, body, _preload_content=False)
            elif pod.metadata.deletion_timestamp is not None:
                self._end(name)
            elif name not in self.workers:
                self.workers[name] = self._start_worker(name, _settings(pod))
                self._patch(name, {"phase": "Running"})
            elif pod.spec.restart_policy == "Never" and pod.status.phase == "Running":
                self._look_for_its_end(name)

    def _look_for_its_end(self, name: str) -> None:
        worker = self.workers[name]
        if worker.is_running():
            return
        is_good = worker.exit_status == 0
        at = datetime.now(UTC).isoformat(timespec="seconds")
        ended = {"reason": "Completed" if is_good else "Error", "exitCode": 0 if is_good else 137, "finishedAt": at}
        container = {
            "name": "worker", "image": "i", "imageID": "i", "ready": False, "restartCount": 0,
            "state": {"terminated": ended},
        }  # fmt: skip
        self._patch(name, {"phase": "Succeeded" if is_good else "Failed", "containerStatuses": [container]})

    def _end(self, name: str) -> None:
        worker = self.workers.pop(name, None)
        if worker is not None:
            self.ended.append(name)
            worker.stop()
        with contextlib.suppress(ApiException):
            self._core.delete_namespaced_pod(name, self._namespace, grace_period_seconds=0)

    def _patch(self, name: str, status: dict[str, Any]) -> None:
        self._core.patch_namespaced_pod_status(name, self._namespace, {"status": status})


def _settings(pod: Any) -> dict[str, str]:
    (container,) = pod.spec.containers
    return {each.name: each.value for each in container.env if each.name.startswith("BITSMITH_") and each.value}
