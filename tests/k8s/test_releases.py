"""The chart on a real API server: a release comes up, is upgraded, does its work with its own accounts, and goes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import kube
import pytest
import yaml
from bitsmith_core.jobs import JobStatus
from kube import Kube
from node import Node
from releases import CHART, NoPreviousChart, Release, capable, cluster_objects, previous_chart

from tests.k8s.conftest import CRDS, install_definitions
from tests.k8s.sites import RUNNING, Site
from tests.worker.conftest import Platform, until

pytestmark = pytest.mark.k8s

CI_VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*.yaml"))
# What the values name that does not come with the chart.
NAMED = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "research"}},
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "batch"}, "value": 1},
)
# Objects of other projects, which the server does not know.
FOREIGN = ("httpRoute", "metrics.serviceMonitor", "metrics.prometheusRule")
MADE = {"rel-bitsmith-auth", "rel-bitsmith-postgresql", "rel-bitsmith-redis", "rel-bitsmith-objectstore"}
DISKS = {f"data-rel-bitsmith-{server}-0" for server in ("postgresql", "redis", "objectstore")}
DEFINITIONS = {"finetunejobs.bitsmith.dev", "workerpools.bitsmith.dev"}

Namespaces = Callable[[str], str]


@pytest.fixture(scope="module")
def scheduling(cluster: Kube) -> Iterator[None]:
    try:
        with kube.scheduling(cluster):
            yield
    except kube.BinariesAbsent as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture
def without_definitions(cluster: Kube) -> Iterator[None]:
    """Those of the other tests are no release's."""
    remove = ("delete", "-f", str(CRDS), "--ignore-not-found", "--timeout=60s")
    cluster(*remove)
    yield
    cluster(*remove)
    install_definitions(cluster)


@pytest.fixture
def node(cluster: Kube, scheduling: None, without_definitions: None, platform: Platform) -> Iterator[Node]:
    folder = platform.folder / "node"
    claims = {"models": platform.folder / "models"}
    folder.mkdir()
    with Node(cluster=cluster, folder=folder, components=RUNNING, claims=claims) as node:
        yield node


@pytest.fixture
def namespaces(cluster: Kube, node: Node) -> Iterator[Namespaces]:
    """The node is still there when they go: it ends their pods."""
    made: list[str] = []

    def make(name: str) -> str:
        cluster("create", "namespace", name)
        made.append(name)
        until(lambda: bool(cluster("get", "sa", "-n", name, "-o", "name")), what="the default account")
        return name

    yield make
    cluster("delete", "namespace", *made, "--timeout=60s")


@pytest.fixture
def sites(cluster: Kube, platform: Platform, namespaces: Namespaces) -> Iterator[Callable[[str], Site]]:
    made: list[Site] = []

    def make(name: str) -> Site:
        made.append(Site(cluster, platform, namespaces(name), number=len(made) + 1))
        return made[-1]

    yield make
    for site in made:
        site.end()


@pytest.fixture
def release(cluster: Kube, namespaces: Namespaces) -> Release:
    return Release(cluster=cluster, namespace=namespaces("bitsmith"))


def kinds_and_names(objects: set[str]) -> set[tuple[str, str]]:
    return {(each.partition("/")[0].partition(".")[0], each.partition("/")[2]) for each in objects}


@pytest.mark.usefixtures("without_definitions")
@pytest.mark.parametrize("values", CI_VALUES)
def test_the_server_admits_every_object_of_every_set_of_values(values: str, cluster: Kube) -> None:
    cluster.apply(*NAMED)
    release = Release(cluster=cluster, namespace="default")
    file = CHART / "ci" / f"{values}-values.yaml"
    unknown = [f"--set={name}.enabled=false" for name in FOREIGN]
    if not capable(cluster, "autoscaling/v2"):  # nor volumes that are claims
        pools = yaml.safe_load(file.read_text()).get("workerPools", {})
        claim = "scratch.ephemeralClaim"
        unknown += [f"--set=workerPools.{name}.{claim}=false" for name, pool in pools.items() if "scratch" in pool]
        unknown.append("--set=api.autoscaling.enabled=false")
    text = release("template", "rel", str(CHART), "--dry-run=server", "-f", str(file), *unknown)
    objects = [each for each in yaml.safe_load_all(text) if each is not None]
    admitted = cluster("apply", "--dry-run=server", "-f", "-", given=yaml.safe_dump_all(objects))
    assert len(admitted.splitlines()) == len(objects) > 5


def test_what_the_cluster_does_not_serve_is_refused_in_words(cluster: Kube) -> None:
    if capable(cluster, "autoscaling/v2"):
        pytest.skip("this server serves all that the chart can ask for")
    release = Release(cluster=cluster, namespace="default")
    for chosen, words in (
        ("api.autoscaling.enabled=true", "api.autoscaling.enabled needs autoscaling/v2"),
        ("workerDefaults.scratch.ephemeralClaim=true", "scratch.ephemeralClaim needs Kubernetes 1.23"),
        ("metrics.serviceMonitor.enabled=true", "need the Prometheus operator's monitoring.coreos.com/v1"),
    ):
        done = release.run("install", "rel", str(CHART), "--set", chosen)
        assert done.returncode != 0
        assert words in done.stderr


def test_a_release_comes_is_upgraded_and_goes_and_leaves_what_must_not_be_lost(
    release: Release, node: Node, tmp_path: Path
) -> None:
    try:
        previous = previous_chart(tmp_path)
    except NoPreviousChart as problem:
        pytest.skip(str(problem))
    node.components = frozenset({"secrets"})  # there is no Postgres to migrate
    operator = ("--set", "operator.enabled=true")
    before, of_cluster = release.objects(), cluster_objects(release.cluster)

    release.install(*operator, chart=previous)
    assert release.status() == ("deployed", 1)
    assert node.ran == ["secrets"]
    made = release.secrets()
    assert set(made) == MADE

    release.upgrade(*operator)
    assert release.status() == ("deployed", 2)
    assert node.ran == ["secrets", "secrets"]
    release.rollback(1)
    assert release.status() == ("deployed", 3)
    release.upgrade(*operator)
    assert release.secrets() == made

    release("test", release.name)
    release.uninstall()
    left = {("secret", name) for name in MADE} | {("persistentvolumeclaim", name) for name in DISKS}
    left |= {("pod", "rel-bitsmith-test")}  # its log says how the test went
    until(lambda: kinds_and_names(release.objects() - before) == left, what=f"nothing but {left}", within_s=30)
    kept = kinds_and_names(cluster_objects(release.cluster) - of_cluster)
    assert {each for each in kept if each[0] != "persistentvolume"} == {
        ("customresourcedefinition", name) for name in DEFINITIONS
    }

    release.install(*operator)  # finds its disks and the passwords that are in them
    assert release.status() == ("deployed", 1)
    assert release.secrets() == made


def test_a_release_migrates_an_empty_database_and_runs_a_job_with_its_own_accounts(
    sites: Callable[[str], Site], node: Node
) -> None:
    site = sites("one")
    site.release.install("-f", str(site.values))
    assert node.ran == ["secrets", "migrate"]

    site.apply("WorkerPool", "gpu", {"maxWorkers": 1, "idleSeconds": 1})
    site.submit("mine")
    site.until_phase("mine", "Succeeded")
    site.until_workers(0)
    (job,) = site.jobs()
    assert job.submitted_by == "k8s:one/mine"

    site.release.uninstall()
    run = {"job", "pod", "deployment", "role", "rolebinding", "networkpolicy", "service"}
    until(lambda: not run & {kind for kind, _ in kinds_and_names(site.release.objects())}, what="the release's end")


def test_two_releases_in_one_cluster_do_not_see_each_other(sites: Callable[[str], Site]) -> None:
    one, two = sites("one"), sites("two")
    one.release.install("-f", str(one.values))
    refused = two.release.run("install", "rel", str(CHART), "-f", str(two.values))
    assert refused.returncode != 0  # the definitions are the other release's
    assert "finetunejobs.bitsmith.dev" in refused.stderr
    two.release.install("-f", str(two.values), "--set", "crds.install=false")
    for site in (one, two):
        site.apply("WorkerPool", "gpu", {"maxWorkers": 1, "idleSeconds": 60})

    one.submit("mine")
    one.until_phase("mine", "Succeeded")
    assert len(one.pool_pods()) == 1
    assert two.pool_pods() == []
    assert two.jobs() == []

    two.release.uninstall()
    one.submit("another")
    one.until_phase("another", "Succeeded")
    assert [job.status for job in one.jobs()] == [JobStatus.SUCCEEDED, JobStatus.SUCCEEDED]

    one.release.uninstall()
    two.release.install("-f", str(two.values), "--take-ownership")
    two.submit("mine")
    two.until_phase("mine", "Succeeded")


def test_the_operators_account_reads_no_secret_and_reaches_no_other_namespace(sites: Callable[[str], Site]) -> None:
    one, two = sites("one"), sites("two")
    one.release.install("-f", str(one.values))
    account = one.operator()

    def answer(*arguments: str) -> str:
        done = one.cluster.run(*arguments, config=account)
        return done.stdout if done.returncode == 0 else done.stderr.lower()

    two.apply("WorkerPool", "gpu", {})
    assert "gpu" in one.cluster("get", "wp", "-n", "two", "-o", "name")
    assert "forbidden" in answer("get", "wp", "-n", "two")
    assert "forbidden" in answer("get", "pods", "-n", "two")
    assert "forbidden" in answer("delete", "wp", "gpu", "-n", "two")
    assert "forbidden" in answer("get", "secrets", "-n", "one")
    assert "forbidden" in answer("get", "secret", "database", "-n", "one")
    assert "forbidden" in answer("create", "secret", "generic", "mine", "-n", "one")
    assert "forbidden" in answer("get", "nodes")
    assert "forbidden" not in answer("get", "wp,ftj,pods", "-n", "one")
