"""Every set of values in ci/ renders, under both helms, to objects that three minor versions of Kubernetes know."""

from typing import Any

import pytest

from tests.charts.conftest import CHART, CI_VALUES, EVERY_API, VERSIONS, Helm, Render, rendered_text

pytestmark = pytest.mark.charts

# The oldest that clouds still run, the one in between, the newest: what PyPI's kubernetes-validate has schemas of.
KUBERNETES = ("1.31", "1.34", "1.37")
# Of other projects, so Kubernetes itself has no schema of them.
FOREIGN = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}


def test_lint_finds_nothing(helm: Helm) -> None:
    for values in CI_VALUES:
        done = helm("lint", "--strict", str(CHART), "-f", str(CHART / "ci" / f"{values}-values.yaml"))
        # lint knows no --api-versions, so the one set that needs other projects' objects is refused, and says so
        assert done.returncode == 0 or "helm template: --api-versions" in done.stdout + done.stderr, done.stdout


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("values", CI_VALUES)
def test_kubernetes_knows_every_field(values: str, kubernetes: str, render: Render) -> None:
    import kubernetes_validate  # from the extra `charts`, which the fast tests do without

    checked = 0
    for each in render(values):
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, kubernetes, strict=True)
            checked += 1
    assert checked > 5


def test_the_validator_would_notice() -> None:
    import kubernetes_validate

    service: dict[str, Any] = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("values", CI_VALUES)
def test_both_helms_render_the_same(values: str) -> None:
    newest, older = (
        [line for line in rendered_text(values, version, ()).splitlines() if line.strip()] for version in VERSIONS
    )
    assert newest == older


@pytest.mark.parametrize("values", CI_VALUES)
def test_names_are_unique_and_short_enough(values: str, render: Render) -> None:
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in render(values)]
    assert len(names) == len(set(names))
    assert max(len(name) for _, _, name in names) <= 63


def test_rendering_twice_gives_the_same(helm: Helm) -> None:
    """Argo CD and `helm diff` compare renderings: nothing in them is random."""
    once, again = (helm("template", "rel", str(CHART), "-n", "ft").stdout for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"api.replica": "3"}, "replica"),
        ({"api.settings.max_open_job": "3"}, "max_open_job"),
        ({"workerPools.gpu.gpus": "1"}, "gpus"),
        ({"images.api.tag": "latest"}, "tag"),
        ({"workerPools.Upper.replicas": "1"}, "Upper"),
        ({"postgresql.mode": "external"}, "postgresql.existingSecret"),
        ({"objectStore.mode": "external", "objectStore.existingSecret": "a"}, "objectStore.endpoint"),
        ({"migrations.mode": "hook"}, "bundled Postgres"),
        ({"httpRoute.enabled": "true"}, "httpRoute.parentRefs"),
        ({"metrics.serviceMonitor.enabled": "true"}, "Prometheus operator"),
        ({"workerDefaults.settings.engine_stop_s": "300"}, "terminationGracePeriodSeconds"),
        ({"objectStore.bundled.ingress.enabled": "true"}, "objectStore.publicEndpoint"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(values: dict[str, str], words: str, helm: Helm) -> None:
    chosen = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    done = helm("template", "rel", str(CHART), *chosen)
    assert done.returncode != 0
    assert words in done.stderr


def test_what_an_old_cluster_lacks_is_asked_for_by_nobody(helm: Helm) -> None:
    """The defaults need no other project's objects."""
    assert helm("template", "rel", str(CHART), "--kube-version", "1.20.0").returncode == 0
    assert helm("template", "rel", str(CHART), "--kube-version", "1.19.0").returncode != 0


def test_only_servers_that_know_rules_get_some(helm: Helm) -> None:
    """An older one drops them, and kubectl refuses them there."""
    for version, count in (("1.28.9", 0), ("1.29.0", 2)):
        text = helm("template", "rel", str(CHART), "--kube-version", version).stdout
        assert text.count("x-kubernetes-validations:") == count


def test_a_claim_that_an_old_cluster_would_drop_without_a_word_is_refused(helm: Helm) -> None:
    chosen = ["--set", "workerDefaults.scratch.ephemeralClaim=true"]
    assert helm("template", "rel", str(CHART), *chosen, "--kube-version", "1.23.0").returncode == 0
    done = helm("template", "rel", str(CHART), *chosen, "--kube-version", "1.22.0")
    assert "workerPools.cpu.scratch.ephemeralClaim needs Kubernetes 1.23" in done.stderr


def test_the_images_list_is_what_the_pods_run(helm: Helm) -> None:
    listed = set((CHART / "images.txt").read_text().split())
    asked = ["--set", "workerPools.gpu.gpu.count=1", "--set", "operator.enabled=true"]
    text = helm("template", "rel", str(CHART), *asked).stdout
    assert {line.split()[-1] for line in text.splitlines() if line.strip().startswith("image: ")} == listed


def test_a_mirror_serves_every_image(render: Render) -> None:
    from rendered_chart import containers

    images = {container.spec["image"] for container in containers(render("external"))}
    assert images
    assert {image.partition("bitsmith/")[0] for image in images} == {"registry.internal:5000/"}


def test_everything_values_turn_every_template_on(helm: Helm) -> None:
    """A template that no set of values renders is one that nobody tests."""
    sources: set[str] = set()
    for values in CI_VALUES:
        text = rendered_text(values, VERSIONS[0], ())
        sources |= {line.partition("bitsmith/")[2] for line in text.splitlines() if line.startswith("# Source: ")}
    templates = {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}
    assert templates - sources == {"templates/validations.yaml"}
    assert EVERY_API
