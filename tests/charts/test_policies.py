"""What a security review asks of every pod, of every set of values."""

import re

import pytest
from rendered_chart import Object, component, containers, of_kind, pod, workloads

from tests.charts.conftest import CI_VALUES, Render

pytestmark = [pytest.mark.charts, pytest.mark.parametrize("values", CI_VALUES)]

WITH_POLICIES = {"bundled", "external", "everything"}
NEED_THE_KUBERNETES_API = {"operator", "secrets"}


def test_no_container_is_root_or_may_become_it(values: str, render: Render) -> None:
    objects = render(values)
    for workload in workloads(objects):
        security = pod(workload)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(objects):
        security = container.spec["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, container.name
        assert security["capabilities"] == {"drop": ["ALL"]}, container.name
        assert not security.get("privileged"), container.name


def test_root_file_systems_are_read_only_and_tmp_is_not(values: str, render: Render) -> None:
    for container in containers(render(values)):
        assert container.spec["securityContext"]["readOnlyRootFilesystem"] is True, container.name
        if container.component != "secrets":  # writes nothing
            assert "/tmp" in {mount["mountPath"] for mount in container.spec["volumeMounts"]}, container.name


def test_memory_is_limited_and_cpu_requested(values: str, render: Render) -> None:
    for container in containers(render(values)):
        assert container.spec["resources"]["limits"]["memory"], container.name
        assert container.spec["resources"]["requests"]["cpu"], container.name


def test_every_folder_on_a_node_has_a_limit(values: str, render: Render) -> None:
    for workload in workloads(render(values)):
        for volume in pod(workload).get("volumes", []):
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), (workload["metadata"]["name"], volume["name"])


def test_images_are_pinned(values: str, render: Render) -> None:
    for container in containers(render(values)):
        assert re.search(r"(:[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})$", container.spec["image"]), container.name


def test_only_who_needs_the_kubernetes_api_has_a_token_for_it(values: str, render: Render) -> None:
    with_token = {
        component(each) for each in workloads(render(values)) if pod(each)["automountServiceAccountToken"] is not False
    }
    assert with_token <= NEED_THE_KUBERNETES_API


def test_no_role_reads_secrets_or_reaches_the_cluster(values: str, render: Render) -> None:
    objects = render(values)
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []
    for role in of_kind(objects, "Role"):
        for rule in role["rules"]:
            if {"secrets", "*"} & set(rule["resources"]) and "" in rule["apiGroups"]:
                assert rule["verbs"] == ["create"]


def test_no_secret_is_written_in_the_release(values: str, render: Render) -> None:
    """A release is readable by whoever may read its own Secret, and stays in the history."""
    assert of_kind(render(values), "Secret") == []
    for container in containers(render(values)):
        for name, variable in container.env.items():
            if re.search(r"KEY$|SECRET|PASSWORD|TOKEN|_URL$", name) and not name.startswith("BITSMITH_SERVING_URL"):
                is_address = str(variable.get("value", "")).startswith("http://") and "@" not in variable["value"]
                assert "secretKeyRef" in variable.get("valueFrom", {}) or is_address, (container.name, name)


def test_every_pod_has_a_policy_and_what_has_none_is_shut(values: str, render: Render) -> None:
    if values not in WITH_POLICIES:
        assert of_kind(render(values), "NetworkPolicy") == []
        return
    objects = render(values)
    policies = {component(each): each for each in of_kind(objects, "NetworkPolicy")}
    assert policies["default-deny"]["spec"].keys() == {"podSelector", "policyTypes"}
    assert {component(each) for each in workloads(objects)} <= set(policies)
    for policy in policies.values():
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_workers_have_no_disruption_budget(values: str, render: Render) -> None:
    """It would block a node's drain for as long as a job runs; a worker that must go gives its job back."""
    budgets = {component(each) for each in of_kind(render(values), "PodDisruptionBudget")}
    assert budgets <= {"api", "scheduler"}


def test_no_probe_asks_another_server(values: str, render: Render) -> None:
    """/readyz of the API asks Postgres and the store: an outage there must not take the API away."""
    for container in containers(render(values)):
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container.spec.get(kind, {}).get("httpGet", {}).get("path")
            assert path in ({None, "/livez", "/readyz"} if container.component == "serving" else {None, "/livez"})


def test_selectors_find_their_own_pods_only(values: str, render: Render) -> None:
    objects = render(values)
    labels = [
        (component(each), each["spec"]["template"]["metadata"]["labels"])
        for each in of_kind(objects, "Deployment", "StatefulSet")
    ]
    for each in of_kind(objects, "Service"):
        selector: Object = each["spec"]["selector"]
        found = {name for name, own in labels if selector.items() <= own.items()}
        assert found == {component(each)}


def test_a_worker_has_shared_memory_scratch_and_time_to_leave(values: str, render: Render) -> None:
    workers = [each for each in of_kind(render(values), "Deployment") if component(each).startswith("worker-")]
    for each in workers:
        mounts = {mount["mountPath"] for mount in pod(each)["containers"][0]["volumeMounts"]}
        assert {"/dev/shm", "/scratch", "/hub"} <= mounts
        assert pod(each)["terminationGracePeriodSeconds"] >= 45
