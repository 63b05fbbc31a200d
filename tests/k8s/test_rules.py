"""Rules of the definitions, on a server that knows rules: what was submitted stays, a mistake can be mended."""

import copy
import subprocess
from collections.abc import Iterator
from typing import Any

import extensions
import pytest
import yaml
from bitsmith_operator.objects import GROUP, OWN_FIELDS, VERSION
from kube import Kube
from kubernetes.client import ApiException, ApiextensionsV1Api
from releases import CHART, HELM

from tests.worker.conftest import until

pytestmark = pytest.mark.k8s

NAMESPACE = "default"
REQUEST: dict[str, Any] = {
    "model": "local:base",
    "training_file": "file-1",
    "suffix": "mine",
    "seed": 1,
    "metadata": {"team": "a"},
    "method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 2.5}}},
}
CHANGED: dict[str, Any] = {
    "model": "local:other",
    "training_file": "file-2",
    "validation_file": "file-3",
    "suffix": None,
    "seed": 2,
    "metadata": {"group": "a"},
    "method": {"type": "qsft", "qsft": {"quantization": {"scheme": "layer-mix", "bpw": 3}}},
}


def definitions() -> list[dict[str, Any]]:
    """As the chart has them for a server of 1.29."""
    template = [str(HELM), "template", "rel", str(CHART), "--kube-version", "1.29.0"]
    chosen = [part for name in ("finetunejobs", "workerpools") for part in ("-s", f"templates/crds/{name}.yaml")]
    done = subprocess.run([*template, *chosen], capture_output=True, text=True, check=True)
    return [body for body in yaml.safe_load_all(done.stdout) if body]


@pytest.fixture(scope="module")
def server(cluster: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    try:
        with extensions.running(cluster, tmp_path_factory.mktemp("extensions")) as found:
            api = ApiextensionsV1Api(found.custom.api_client)
            for body in definitions():
                api.create_custom_resource_definition(body)
            names = [body["metadata"]["name"] for body in definitions()]
            until(lambda: all(is_served(api, name) for name in names), what=f"{names} being served")
            yield found
    except extensions.NoSuchServer as problem:
        pytest.skip(str(problem))


def is_served(api: ApiextensionsV1Api, name: str) -> bool:
    conditions = api.read_custom_resource_definition(name).status.conditions or []
    return "Established" in {each.type for each in conditions if each.status == "True"}


class Objects:
    """Of one kind, made and changed through the API."""

    def __init__(self, server: Kube, plural: str, kind: str) -> None:
        self._custom, self._kind = server.custom, kind
        self._place = (GROUP, VERSION, NAMESPACE, plural)

    def create(self, name: str, spec: dict[str, Any]) -> None:
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": self._kind, "metadata": {"name": name}, "spec": spec}
        self._custom.create_namespaced_custom_object(*self._place, body)

    def submitted(self, name: str) -> None:
        status = {"status": {"jobId": "ftjob-1", "phase": "Queued"}}
        self._custom.patch_namespaced_custom_object_status(*self._place, name, status)

    def spec(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._custom.get_namespaced_custom_object(*self._place, name)["spec"]
        return found

    def replace(self, name: str, spec: dict[str, Any]) -> None:
        body = self._custom.get_namespaced_custom_object(*self._place, name)
        self._custom.replace_namespaced_custom_object(*self._place, name, {**body, "spec": spec})

    def scale(self, name: str, replicas: int) -> None:
        self._custom.patch_namespaced_custom_object_scale(*self._place, name, {"spec": {"replicas": replicas}})


@pytest.fixture
def jobs(server: Kube) -> Objects:
    return Objects(server, "finetunejobs", "FineTuneJob")


@pytest.fixture
def pools(server: Kube) -> Objects:
    return Objects(server, "workerpools", "WorkerPool")


def test_every_field_of_a_request_is_tried() -> None:
    (body,) = (each for each in definitions() if each["spec"]["names"]["kind"] == "FineTuneJob")
    spec = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(CHANGED) == set(spec["properties"]) - set(OWN_FIELDS)


@pytest.mark.parametrize("field", CHANGED)
def test_what_a_job_was_made_from_does_not_change(field: str, jobs: Objects) -> None:
    name = f"fixed-{field.replace('_', '-')}"
    jobs.create(name, REQUEST)
    jobs.submitted(name)
    for changed in (REQUEST | {field: CHANGED[field]}, without(REQUEST, field)):
        if changed == REQUEST or "model" not in changed:
            continue
        with pytest.raises(ApiException) as refused:
            jobs.replace(name, changed)
        assert refused.value.status == 422
        words = f"spec.{field}: Invalid value"
        assert words in refused.value.body
        assert f"{field} does not change once the job is submitted; make another object" in refused.value.body
    assert jobs.spec(name) == REQUEST


def test_a_change_deep_within_the_method_is_seen(jobs: Objects) -> None:
    jobs.create("deep", REQUEST)
    jobs.submitted("deep")
    changed = copy.deepcopy(REQUEST)
    changed["method"]["qsft"]["quantization"]["layers"] = {"lm_head": 8}
    changed["method"]["qsft"]["training"] = {"epochs": 3}
    with pytest.raises(ApiException, match="method does not change"):
        jobs.replace("deep", changed)


def test_what_only_a_cluster_knows_may_change(jobs: Objects) -> None:
    jobs.create("own", REQUEST)
    jobs.submitted("own")
    wanted = REQUEST | {"suspend": True, "priority": 5, "ttlSecondsAfterFinished": 60, "deletionPolicy": "Orphan"}
    assert set(wanted) - set(REQUEST) == set(OWN_FIELDS)
    jobs.replace("own", wanted)
    assert jobs.spec("own") == wanted
    jobs.replace("own", REQUEST)
    assert jobs.spec("own") == REQUEST


def test_before_there_is_a_job_a_mistake_is_mended_in_place(jobs: Objects) -> None:
    jobs.create("wrong", {"model": "local:bsae", "seed": 1})
    jobs.replace("wrong", REQUEST)
    assert jobs.spec("wrong") == REQUEST


def test_a_pool_whose_least_is_more_than_its_most_is_refused(pools: Objects) -> None:
    for number, spec in enumerate(
        ({"minWorkers": 3, "maxWorkers": 2}, {"minWorkers": 2}, {"maxWorkers": 0, "minWorkers": 1})
    ):
        with pytest.raises(ApiException) as refused:
            pools.create(f"bad-{number}", spec)
        assert refused.value.status == 422
        assert "spec.minWorkers: Invalid value" in refused.value.body
        assert "minWorkers is more than maxWorkers" in refused.value.body
    pools.create("good", {"maxWorkers": 2})
    pools.create("least", {})
    with pytest.raises(ApiException, match="minWorkers is more than maxWorkers"):
        pools.scale("good", 3)
    pools.scale("good", 2)
    assert pools.spec("good") == {"minWorkers": 2, "maxWorkers": 2}


def without(spec: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != field}
