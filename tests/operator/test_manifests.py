"""Worker pods ask for no more rights than a worker needs, and are called what their worker is called."""

from typing import Any

from bitsmith_operator.manifests import POOL_LABEL, template_digest, worker_pod
from bitsmith_operator.objects import WorkerPool
from bitsmith_operator.settings import PodDefaults

DEFAULTS = PodDefaults(
    image="registry/bitsmith-worker:1",
    env=[{"name": "BITSMITH_DATABASE_URL", "value": "postgresql+psycopg://db"}],
    security={"runAsUser": 10001, "fsGroup": 10001},
    labels={"app.kubernetes.io/component": "pool-worker"},
)


def pool(**spec: Any) -> WorkerPool:
    metadata = {"name": "gpu", "namespace": "ft", "uid": "uid-1"}
    return WorkerPool.model_validate({"metadata": metadata, "spec": spec})


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (found,) = manifest["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_a_pod_is_as_restricted_as_pod_security_asks_for() -> None:
    manifest = worker_pod(pool(), DEFAULTS, suffix="abc")
    assert manifest["spec"]["securityContext"] == {
        "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": 10001, "fsGroup": 10001,
    }  # fmt: skip
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & manifest["spec"].keys()
    assert not [volume for volume in manifest["spec"]["volumes"] if "hostPath" in volume]


def test_the_worker_has_its_pods_name_whatever_a_pool_says() -> None:
    manifest = worker_pod(pool(env=[{"name": "BITSMITH_WORKER_NAME", "value": "me"}]), DEFAULTS, suffix="abc")
    env = {each["name"]: each for each in container(manifest)["env"]}  # the last of a name counts, as in Kubernetes
    assert env["BITSMITH_WORKER_NAME"] == {
        "name": "BITSMITH_WORKER_NAME",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
    }
    assert env["BITSMITH_DATABASE_URL"]["value"] == "postgresql+psycopg://db"
    assert manifest["metadata"]["name"] == "gpu-abc"


def test_the_worker_is_of_the_pool_that_the_object_names_whatever_its_environment_says() -> None:
    for spec, expected in (({}, "default"), ({"pool": "h100"}, "h100")):
        manifest = worker_pod(
            pool(env=[{"name": "BITSMITH_WORKER_POOL", "value": "mine"}], **spec), DEFAULTS, suffix="abc"
        )
        env = {each["name"]: each for each in container(manifest)["env"]}
        assert env["BITSMITH_WORKER_POOL"]["value"] == expected
    assert template_digest(pool(), DEFAULTS) != template_digest(pool(pool="h100"), DEFAULTS)


def test_a_pod_goes_with_its_pool() -> None:
    manifest = worker_pod(pool(labels={POOL_LABEL: "other", "kueue.x-k8s.io/queue-name": "q"}), DEFAULTS, suffix="abc")
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("WorkerPool", "gpu", "uid-1", True)
    assert manifest["metadata"]["labels"] == {
        POOL_LABEL: "gpu", "kueue.x-k8s.io/queue-name": "q", "app.kubernetes.io/component": "pool-worker",
    }  # fmt: skip


def test_what_a_pool_asks_for_is_in_its_pods() -> None:
    asked = pool(
        resources={"limits": {"nvidia.com/gpu": "1"}}, nodeSelector={"gpu": "h100"}, runtimeClassName="nvidia",
        sharedMemory="8Gi", image="other:2", tolerations=[{"operator": "Exists"}],
    )  # fmt: skip
    manifest = worker_pod(asked, DEFAULTS, suffix="abc")
    assert container(manifest)["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert container(manifest)["image"] == "other:2"
    assert manifest["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert manifest["spec"]["runtimeClassName"] == "nvidia"
    assert manifest["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in manifest["spec"]["volumes"]


def test_pods_are_made_anew_for_another_image_and_not_for_another_size() -> None:
    digest = template_digest(pool(maxWorkers=1), DEFAULTS)
    assert template_digest(pool(maxWorkers=9, minWorkers=2, order=5, idleSeconds=1), DEFAULTS) == digest
    assert template_digest(pool(image="other:2"), DEFAULTS) != digest
    assert template_digest(pool(), DEFAULTS.model_copy(update={"image": "other:2"})) != digest
