"""A node without containers: pods that the scheduler binds to it run at once, and some of them for real.

Pods of the components that are named run their container's command as a process on this machine, with the pod's own
environment (Secrets that are absent keep it waiting) and its service account. Of all others it is only said that they
run, or, where they are to end, that they have ended well. Claims get a volume.
"""

import base64
import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bitsmith_client.lab.child import Child, ChildSpec
from kube import Kube
from kubernetes.client import ApiException

NAME = "node"
ROOM = {"cpu": "64", "memory": "512Gi", "pods": "200", "ephemeral-storage": "4Ti"}
COMPONENT = "app.kubernetes.io/component"
PROGRAMS = Path(__file__).parents[2] / "docker" / "programs"  # what images have beside the environment's own


class Absent(Exception):
    """The pod names a Secret or a key that is not there (yet)."""


@dataclass(kw_only=True)
class Node:
    cluster: Kube
    folder: Path
    components: frozenset[str]  # whose commands run
    claims: Mapping[str, Path] = field(default_factory=dict)  # what is on them
    ran: list[str] = field(default_factory=list)  # components of pods whose programs ended well, in order
    _running: dict[str, Child] = field(default_factory=dict)  # uid -> process
    _is_over: threading.Event = field(default_factory=threading.Event)
    _failure: Exception | None = None

    def __enter__(self) -> "Node":
        core, status = self.cluster.core, {"capacity": ROOM, "allocatable": ROOM, "conditions": [_true("Ready")]}
        core.create_node({"metadata": {"name": NAME}})
        core.patch_node_status(NAME, {"status": status})
        core.patch_node(NAME, {"spec": {"taints": []}})  # the server adds one until a node is ready
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)
        for child in self._running.values():
            child.kill()
        self.cluster("delete", "node", NAME)
        self.cluster("delete", "persistentvolume", "--all", "--wait=false")
        assert self._failure is None, self._failure

    def _work(self) -> None:
        while not self._is_over.wait(0.2):
            try:
                self._provide()
                for pod in self._pods():
                    with contextlib.suppress(ApiException):  # gone or changed meanwhile; the next look sees it
                        self._attend(pod)
            except Exception as error:  # a thread's; __exit__ tells it
                self._failure = error
                return

    def _pods(self) -> list[dict[str, Any]]:
        found = self.cluster.core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={NAME}")
        items: list[dict[str, Any]] = self.cluster.core.api_client.sanitize_for_serialization(found)["items"]
        return items

    def _attend(self, pod: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            child = self._running.pop(metadata["uid"], None)
            if child is not None:
                child.stop()
            self.cluster.core.delete_namespaced_pod(metadata["name"], metadata["namespace"], grace_period_seconds=0)
        elif pod["status"].get("phase", "Pending") == "Pending":
            with contextlib.suppress(Absent):
                self._begin(pod)
        elif metadata["uid"] in self._running:
            self._follow(pod, self._running[metadata["uid"]])

    def _begin(self, pod: dict[str, Any]) -> None:
        (container,) = pod["spec"]["containers"]
        environment = self._environment(pod, container)
        ends = pod["spec"]["restartPolicy"] == "Never"
        if pod["metadata"]["labels"].get(COMPONENT) not in self.components:
            self._say(pod, "Succeeded" if ends else "Running")
            return
        root = self._root(pod)
        (root / "tmp").mkdir(parents=True)
        account = self._account(pod, root) if pod["spec"].get("automountServiceAccountToken", True) else {}
        child = Child(
            ChildSpec(
                name="log",
                command=_command(container["command"]),
                environment={**environment, **account},
                is_ready=lambda: True,
            ),
            root,
        )
        child.start()
        self._running[pod["metadata"]["uid"]] = child
        self._say(pod, "Running")

    def _follow(self, pod: dict[str, Any], child: Child) -> None:
        if child.is_running():
            return
        told = f"{pod['metadata']['name']} ended with {child.exit_status}:\n{child.log_tail()}"
        assert child.exit_status == 0, told
        assert pod["spec"]["restartPolicy"] == "Never", told
        self._running.pop(pod["metadata"]["uid"])
        self.ran.append(pod["metadata"]["labels"][COMPONENT])
        self._say(pod, "Succeeded")

    def _say(self, pod: dict[str, Any], phase: str) -> None:
        now, runs = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), phase == "Running"
        ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}}
        containers = [
            {
                "name": each["name"], "image": each["image"], "imageID": "i", "ready": runs, "restartCount": 0,
                "state": {"running": {"startedAt": now}} if runs else ended,
            }
            for each in pod["spec"]["containers"]
        ]  # fmt: skip
        conditions = [_true(name) for name in ("Initialized", "Ready", "ContainersReady")] if runs else []
        status = {"phase": phase, "startTime": now, "containerStatuses": containers, "conditions": conditions}
        metadata = pod["metadata"]
        self.cluster.core.patch_namespaced_pod_status(metadata["name"], metadata["namespace"], {"status": status})

    def _root(self, pod: dict[str, Any]) -> Path:
        """What the pod has for /."""
        return self.folder / str(pod["metadata"]["uid"])

    def _account(self, pod: dict[str, Any], root: Path) -> dict[str, str]:
        """A token of the pod's service account, as a folder for programs in a cluster and as a kubeconfig."""
        metadata, server = pod["metadata"], urlsplit(self.cluster.url)
        name = pod["spec"]["serviceAccountName"]
        token = self.cluster("create", "token", name, "-n", metadata["namespace"]).strip()
        (root / "token").write_text(token)
        (root / "ca.crt").write_bytes(self.cluster.authority.read_bytes())
        return {
            "SERVICE_ACCOUNT": str(root),
            "KUBERNETES_SERVICE_HOST": str(server.hostname),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "BITSMITH_OPERATOR_KUBECONFIG": str(self.cluster.config(metadata["uid"], token)),
        }

    def _environment(self, pod: dict[str, Any], container: dict[str, Any]) -> dict[str, str]:
        found = {}
        for variable in container.get("env", []):
            source = variable.get("valueFrom")
            value = variable.get("value", "") if source is None else self._value(pod, source)
            found[variable["name"]] = self._here(pod, container, value)
        return found

    def _value(self, pod: dict[str, Any], source: dict[str, Any]) -> str:
        metadata = pod["metadata"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name", source
            return str(metadata["name"])
        wanted = source["secretKeyRef"]
        try:
            secret = self.cluster.core.read_namespaced_secret(wanted["name"], metadata["namespace"])
            return base64.b64decode(secret.data[wanted["key"]]).decode()
        except (ApiException, KeyError) as error:
            raise Absent(f"{wanted['name']}.{wanted['key']}") from error

    def _here(self, pod: dict[str, Any], container: dict[str, Any], value: str) -> str:
        """A path in the pod as one of this machine."""
        for path, place in self._mounts(pod, container):
            if value == path or value.startswith(f"{path}/"):
                return f"{place}{value.removeprefix(path)}"
        return value

    def _mounts(self, pod: dict[str, Any], container: dict[str, Any]) -> Iterator[tuple[str, Path]]:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            path = mount["mountPath"]
            claim = volumes[mount["name"]].get("persistentVolumeClaim", {}).get("claimName")
            yield path, self.claims.get(claim, self._root(pod) / path.lstrip("/"))

    def _provide(self) -> None:
        for claim in self.cluster.core.list_persistent_volume_claim_for_all_namespaces().items:
            if claim.status.phase != "Pending" or claim.spec.volume_name:
                continue
            name = f"volume-{claim.metadata.uid}"
            of = {"namespace": claim.metadata.namespace, "name": claim.metadata.name, "uid": claim.metadata.uid}
            spec = {
                "capacity": {"storage": claim.spec.resources.requests["storage"]},
                "accessModes": claim.spec.access_modes, "hostPath": {"path": f"/nowhere/{name}"}, "claimRef": of,
            }  # fmt: skip
            with contextlib.suppress(ApiException):  # made in the last look, and not bound yet
                self.cluster.core.create_persistent_volume({"metadata": {"name": name}, "spec": spec})


def _true(condition: str) -> dict[str, str]:
    return {"type": condition, "status": "True"}


def _command(words: list[str]) -> list[str | Path]:
    """As the images have it, with this machine's programs."""
    program, *arguments = words[2:] if words[:2] == ["tini", "--"] else words
    if program == "python":
        return [sys.executable, *arguments]
    if (PROGRAMS / program).exists():
        return [sys.executable, PROGRAMS / program, *arguments]
    return [Path(sys.executable).with_name(program), *arguments]
