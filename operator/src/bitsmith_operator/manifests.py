"""The pods of a pool. Pure."""

import hashlib
import json
from typing import Any

from bitsmith_operator.objects import GROUP, VERSION, WorkerPool
from bitsmith_operator.settings import PodDefaults

POOL_LABEL = f"{GROUP}/worker-pool"
TEMPLATE_ANNOTATION = f"{GROUP}/template"
SCRATCH = "/scratch"


def worker_pod(pool: WorkerPool, defaults: PodDefaults, *, suffix: str) -> dict[str, Any]:
    """A pod that owns no name of its own: the worker in it is called as the pod is.

    Args:
        suffix: makes the pod's name unique.
    """
    spec = pool.spec
    name = f"{pool.metadata.name}-{suffix}"
    volumes: list[dict[str, Any]] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": spec.scratch}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if spec.shared_memory is not None:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shared_memory}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    container = {
        "name": "worker",
        "image": spec.image or defaults.image,
        "imagePullPolicy": defaults.pull_policy,
        "command": ["bitsmith-worker"],
        "env": [
            *defaults.env,
            *spec.env,
            {"name": "BITSMITH_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "BITSMITH_WORKER_POOL", "value": spec.pool},
            {"name": "BITSMITH_WORKER_SCRATCH", "value": SCRATCH},
        ],
        "envFrom": defaults.env_from,
        "resources": spec.resources,
        "volumeMounts": [*mounts, *defaults.volume_mounts, *spec.volume_mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod_spec: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": spec.termination_grace_period_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **defaults.security},
        "containers": [container],
        "volumes": [*volumes, *defaults.volumes, *spec.volumes],
    }
    optional = {
        "nodeSelector": spec.node_selector,
        "tolerations": spec.tolerations,
        "affinity": spec.affinity,
        "runtimeClassName": spec.runtime_class_name,
        "priorityClassName": spec.priority_class_name,
        "serviceAccountName": spec.service_account_name or defaults.service_account,
        "imagePullSecrets": defaults.pull_secrets,
    }
    pod_spec |= {name: value for name, value in optional.items() if value}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": pool.metadata.namespace,
            "labels": {**defaults.labels, **spec.labels, POOL_LABEL: pool.metadata.name},
            "annotations": {**spec.annotations, TEMPLATE_ANNOTATION: template_digest(pool, defaults)},
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": "WorkerPool",
                    "name": pool.metadata.name,
                    "uid": pool.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": pod_spec,
    }


_NOT_OF_A_POD = {"min_workers", "max_workers", "order", "idle_seconds"}


def template_digest(pool: WorkerPool, defaults: PodDefaults) -> str:
    """Of all that a pod is made from; another one means other pods."""
    made_from = [pool.spec.model_dump(mode="json", exclude=_NOT_OF_A_POD), defaults.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
