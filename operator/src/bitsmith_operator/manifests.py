"""The pods and Jobs of a pool. Pure."""

import hashlib
import json
from typing import Any

from bitsmith_operator.objects import GROUP, VERSION, WORKER_LABEL, Meta, WorkerPool
from bitsmith_operator.settings import PodDefaults

POOL_LABEL = f"{GROUP}/worker-pool"
NODES_LABEL = f"{GROUP}/nodes"  # of pods that speak with each other; the chart's network policy selects by it
TEMPLATE_ANNOTATION = f"{GROUP}/template"
SCRATCH = "/scratch"
LEADER_PORT = 29500  # BITSMITH_LEADER_PORT, unless a pool's environment says otherwise: the Service needs some port
KEPT_S = 300  # a finished Job


def worker_pod(pool: WorkerPool, defaults: PodDefaults, *, suffix: str) -> dict[str, Any]:
    """A pod that owns no name of its own: the worker in it is called as the pod is.

    Args:
        suffix: makes the pod's name unique.
    """
    name = f"{pool.metadata.name}-{suffix}"
    own = [{"name": "BITSMITH_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": pool.metadata.namespace,
            **_marks(pool, defaults),
            "ownerReferences": [owner(pool.metadata)],
        },
        "spec": {"restartPolicy": "Always", **_pod_spec(pool, defaults, own)},
    }


def worker_job(pool: WorkerPool, defaults: PodDefaults, *, suffix: str) -> dict[str, Any]:
    """A Job whose worker makes one attempt. It is called as the Job is, and so do its pods call it: the first one is
    the worker, the others help it.

    Args:
        suffix: makes the Job's name unique.
    """
    spec = pool.spec
    name = f"{pool.metadata.name}-{suffix}"
    own = [
        {"name": "BITSMITH_WORKER_NAME", "value": name},
        {"name": "BITSMITH_WORKER_ONCE", "value": "true"},
        {"name": "BITSMITH_WORKER_IDLE_WITHIN_S", "value": str(max(1, spec.idle_seconds))},
    ]
    job: dict[str, Any] = {
        "backoffLimit": 0,  # the platform tries again, by its own rules
        "ttlSecondsAfterFinished": KEPT_S,
    }
    inside: dict[str, Any] = {"restartPolicy": "Never"}
    if spec.nodes > 1:
        own += [
            {"name": "BITSMITH_NODES", "value": str(spec.nodes)},
            {"name": "BITSMITH_LEADER_HOST", "value": f"{name}-0.{name}"},
        ]
        job |= {"completionMode": "Indexed", "completions": spec.nodes, "parallelism": spec.nodes}
        inside["subdomain"] = name
    if spec.is_queued:
        job["suspend"] = True  # until Kueue admits it
    marks = _marks(pool, defaults)
    marks["labels"][WORKER_LABEL] = name
    if spec.nodes > 1:
        marks["labels"][NODES_LABEL] = str(spec.nodes)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": pool.metadata.namespace,
            **marks,
            "ownerReferences": [owner(pool.metadata)],
        },
        "spec": {**job, "template": {"metadata": marks, "spec": {**inside, **_pod_spec(pool, defaults, own)}}},
    }


def gang_service(pool: WorkerPool, job: Meta) -> dict[str, Any]:
    """The names by which the pods of an Indexed Job find the first one; it goes with the Job."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": job.name,
            "namespace": job.namespace,
            "labels": {POOL_LABEL: pool.metadata.name, WORKER_LABEL: job.name},
            "ownerReferences": [owner(job, api="batch/v1", kind="Job")],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {WORKER_LABEL: job.name},
            "publishNotReadyAddresses": True,
            "ports": [{"name": "ranks", "port": LEADER_PORT}],
        },
    }


def owner(of: Meta, *, api: str = f"{GROUP}/{VERSION}", kind: str = "WorkerPool") -> dict[str, Any]:
    return {
        "apiVersion": api,
        "kind": kind,
        "name": of.name,
        "uid": of.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _marks(pool: WorkerPool, defaults: PodDefaults) -> dict[str, dict[str, str]]:
    return {
        "labels": {**defaults.labels, **pool.spec.labels, POOL_LABEL: pool.metadata.name},
        "annotations": {**pool.spec.annotations, TEMPLATE_ANNOTATION: template_digest(pool, defaults)},
    }


def _pod_spec(pool: WorkerPool, defaults: PodDefaults, own: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Args:
        own: environment of this pod, over what the pool and the operator say.
    """
    spec = pool.spec
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
            *own,
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
    return pod_spec | {name: value for name, value in optional.items() if value}


_NOT_OF_A_POD = {"min_workers", "max_workers", "order", "idle_seconds"}


def template_digest(pool: WorkerPool, defaults: PodDefaults) -> str:
    """Of all that a pod is made from; another one means other pods."""
    made_from = [pool.spec.model_dump(mode="json", exclude=_NOT_OF_A_POD), defaults.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
