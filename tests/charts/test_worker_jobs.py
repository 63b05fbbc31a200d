"""What the operator makes of a pool of mode job is what three minor versions of Kubernetes know."""

from typing import Any

import pytest
from bitsmith_operator.manifests import gang_service, worker_job, worker_pod
from bitsmith_operator.objects import QUEUE_LABEL, Meta, WorkerPool
from bitsmith_operator.settings import PodDefaults
from rendered_chart import named, pod

from tests.charts.conftest import Render
from tests.charts.test_rendering import KUBERNETES

pytestmark = pytest.mark.charts

DEFAULTS = PodDefaults(image="registry/bitsmith-worker:1", security={"runAsUser": 10001, "fsGroup": 10001})
FULL: dict[str, Any] = {
    "sharedMemory": "8Gi",
    "runtimeClassName": "nvidia",
    "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {"limits": {"nvidia.com/gpu": "8", "memory": "512Gi"}},
}


def pool_of(spec: dict[str, Any]) -> WorkerPool:
    metadata = {"name": "h100", "namespace": "ft", "uid": "uid-1"}
    return WorkerPool.model_validate({"metadata": metadata, "spec": {"mode": "job", **FULL, **spec}})


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("spec", [{}, {"nodes": 2}, {"nodes": 64, "labels": {QUEUE_LABEL: "team-a"}}])
def test_kubernetes_knows_every_field_of_a_job(spec: dict[str, Any], kubernetes: str) -> None:
    import kubernetes_validate

    pool = pool_of(spec)
    job = worker_job(pool, DEFAULTS, suffix="abc")
    service = gang_service(pool, Meta(name="h100-abc", namespace="ft", uid="uid-2"))
    for manifest in (job, service, worker_pod(pool, DEFAULTS, suffix="abc")):
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


def test_pods_that_train_together_reach_each_other_and_no_other_pod_reaches_them(render: Render) -> None:
    objects = render("everything")
    (container,) = pod(named(objects, "Deployment", "operator"))["containers"]
    (value,) = (each["value"] for each in container["env"] if each["name"] == "BITSMITH_OPERATOR_PODS")
    defaults = PodDefaults.model_validate_json(value)
    policy = named(objects, "NetworkPolicy", "worker-nodes")["spec"]
    selector = policy["podSelector"]
    assert policy["ingress"] == [{"from": [{"podSelector": selector}]}]
    assert policy["egress"] == [{"to": [{"podSelector": selector}]}]

    def is_selected(spec: dict[str, Any]) -> bool:
        labels = worker_job(pool_of(spec), defaults, suffix="abc")["spec"]["template"]["metadata"]["labels"]
        expressions = selector["matchExpressions"]
        assert [each["operator"] for each in expressions] == ["Exists"]
        return selector["matchLabels"].items() <= labels.items() and all(each["key"] in labels for each in expressions)

    assert is_selected({"nodes": 2})
    assert not is_selected({})
