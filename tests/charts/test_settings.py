"""Every environment variable that the chart sets is read by the program it sets it for."""

import pytest
from bitsmith_api.settings import ApiSettings
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings, WebhookSettings
from bitsmith_operator.settings import OperatorSettings, PodDefaults
from bitsmith_scheduler.settings import SchedulerSettings
from bitsmith_serving.settings import ServingSettings
from bitsmith_worker.settings import WorkerSettings
from pydantic import AliasChoices
from pydantic_settings import BaseSettings
from rendered_chart import Container, Object, component, containers, named, of_kind, pod

from tests.charts.conftest import CHART, CI_VALUES, Helm, Render

pytestmark = pytest.mark.charts

# What each of our programs reads, by the command that starts it.
PROGRAMS: dict[str, tuple[type[BaseSettings], ...]] = {
    "bitsmith-api": (ApiSettings, DatabaseSettings, StorageSettings, WebhookSettings, QueueSettings),
    "bitsmith-scheduler": (SchedulerSettings, DatabaseSettings, QueueSettings, StorageSettings, WebhookSettings),
    "bitsmith-worker": (WorkerSettings, DatabaseSettings, QueueSettings, StorageSettings),
    "bitsmith-serving": (ServingSettings, StorageSettings),
    "bitsmith-migrate": (DatabaseSettings, StorageSettings),
    "bitsmith-await-schema": (DatabaseSettings,),
    "bitsmith-operator": (OperatorSettings, DatabaseSettings),
}
# Of OpenSSL, requests, OpenTelemetry and huggingface_hub, which read them by themselves; and what ci/ adds by hand.
OF_OTHERS = {
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "OTEL_EXPORTER_OTLP_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT",
    "HF_TOKEN", "HF_HUB_DISABLE_TELEMETRY", "TZ", "NCCL_DEBUG",
}  # fmt: skip


def names_of(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config.get("env_prefix", "")
    names = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        names |= {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else {f"{prefix}{name}"}
    return {name.upper() for name in names}


def program(container: Container) -> str | None:
    return next((word for word in container.spec.get("command", []) if word in PROGRAMS), None)


@pytest.mark.parametrize("values", CI_VALUES)
def test_every_variable_is_a_setting_that_the_program_reads(values: str, render: Render) -> None:
    checked = set()
    for container in containers(render(values)):
        name = program(container)
        if name is None:
            continue
        known = set().union(*(names_of(settings) for settings in PROGRAMS[name]))
        ours = {variable for variable in container.env if variable.startswith("BITSMITH_")}
        assert ours <= known, (container.name, ours - known)
        assert set(container.env) - ours <= OF_OTHERS, container.name
        checked.add(name)
    assert {"bitsmith-api", "bitsmith-scheduler", "bitsmith-await-schema"} <= checked


@pytest.mark.parametrize("values", CI_VALUES)
def test_every_setting_without_a_default_is_set(values: str, render: Render) -> None:
    for container in containers(render(values)):
        name = program(container)
        for settings in PROGRAMS[name] if name else ():
            prefix = settings.model_config.get("env_prefix", "")
            if name == "bitsmith-api" and settings is QueueSettings:
                continue  # the API takes its URL as an alias only
            needed = {
                f"{prefix}{field}".upper() for field, found in settings.model_fields.items() if found.is_required()
            }
            assert needed <= set(container.env), (container.name, needed - set(container.env))


@pytest.mark.parametrize("values", CI_VALUES)
def test_programs_accept_the_values_that_are_written_out(
    values: str, render: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers without exponents, lists as JSON, booleans as pydantic reads them."""
    for container in containers(render(values)):
        name = program(container)
        with monkeypatch.context() as patch:
            for variable, found in container.env.items():
                patch.setenv(variable, str(found.get("value", "postgresql+psycopg://from-a-secret")))
            for settings in PROGRAMS[name] if name else ():
                if not (name == "bitsmith-api" and settings is QueueSettings):
                    settings()


def test_a_large_number_arrives_as_it_was_written(render: Render) -> None:
    api = next(each for each in containers(render("everything")) if each.name.endswith("api/api"))
    assert api.env["BITSMITH_API_MAX_STORAGE_BYTES"]["value"] == "1099511627776"
    assert api.env["BITSMITH_API_MAX_OPEN_JOBS"]["value"] == "200"
    assert api.env["BITSMITH_WEBHOOK_ALLOWED_NETWORKS"]["value"] == '["10.0.0.0/8"]'


def test_a_pool_has_the_defaults_and_what_it_changes(render: Render) -> None:
    objects = render("external")
    h100, mig = (pod(named(objects, "Deployment", f"worker-{name}")) for name in ("h100", "mig"))
    assert h100["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert mig["containers"][0]["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "1"
    assert "nvidia.com/gpu" not in mig["containers"][0]["resources"]["limits"]
    assert h100["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in mig
    for each in (h100, mig):
        (models,) = (volume for volume in each["volumes"] if volume["name"] == "models")
        assert models["persistentVolumeClaim"]["claimName"] == "models"
        assert "-cuda" in each["containers"][0]["image"]
    labels = named(objects, "Deployment", "worker-mig")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "small"


def test_a_worker_is_of_the_pool_that_its_values_name(render: Render) -> None:
    pools = {
        each.name: each.env["BITSMITH_WORKER_POOL"]["value"]
        for values in ("external", "everything")
        for each in containers(render(values))
        if program(each) == "bitsmith-worker"
    }
    of = {name.rpartition("worker-")[2]: pool for name, pool in pools.items()}
    assert of == {"h100/worker": "default", "mig/worker": "small", "gpu/worker": "default", "cpu/worker": "default"}


def test_a_pools_name_is_given_in_one_place(helm: Helm) -> None:
    """Among a worker's settings it would be silently overridden."""
    done = helm("template", "rel", str(CHART), "--set", "workerDefaults.settings.pool=h100")
    assert done.returncode != 0
    assert "pool" in done.stderr
    done = helm("template", "rel", str(CHART), "--set", "workerPools.cpu.pool=Not_a_name")
    assert done.returncode != 0


def test_pods_of_the_operator_have_what_workers_of_the_chart_have(render: Render) -> None:
    objects = render("everything")
    (container,) = pod(named(objects, "Deployment", "operator"))["containers"]
    (value,) = (each["value"] for each in container["env"] if each["name"] == "BITSMITH_OPERATOR_PODS")
    pods = PodDefaults.model_validate_json(value)
    names = {variable["name"] for variable in pods.env}
    ours = {name for name in names if name.startswith("BITSMITH_")}
    assert ours <= set().union(*(names_of(settings) for settings in PROGRAMS["bitsmith-worker"]))
    assert names - ours <= OF_OTHERS
    assert {"BITSMITH_DATABASE_URL", "BITSMITH_QUEUE_URL", "BITSMITH_STORAGE_ENDPOINT"} <= ours
    policy = named(objects, "NetworkPolicy", "pool-worker")["spec"]
    assert policy["podSelector"]["matchLabels"] == pods.labels
    assert policy["egress"] == egress(objects, "worker-gpu")
    for server in ("postgresql", "redis", "objectstore"):
        (rule,) = (each for each in named(objects, "NetworkPolicy", server)["spec"]["ingress"] if "from" in each)
        assert {"podSelector": {"matchLabels": pods.labels}} in rule["from"]


def test_the_operator_may_do_what_it_does_and_no_more(render: Render) -> None:
    """What bitsmith_operator.cluster calls."""
    roles = of_kind(render("everything"), "Role")
    found = {(group, resource, verb) for role in roles if component(role) == "operator" for rule in role["rules"]
             for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    assert {("bitsmith.dev", "finetunejobs/status", "patch"), ("", "pods", "create"), ("", "pods", "delete"),
            ("batch", "jobs", "create"), ("batch", "jobs", "delete"), ("", "services", "create")} <= found  # fmt: skip
    assert not [entry for entry in found if "*" in entry or "secrets" in entry]


def egress(objects: list[Object], of: str) -> list[Object]:
    rules: list[Object] = named(objects, "NetworkPolicy", of)["spec"]["egress"]
    return rules


def test_gpu_workers_reach_the_three_servers_and_dns_and_nothing_else(render: Render) -> None:
    allowed = {
        (rule.get("to", [{}])[0].get("ipBlock", {}).get("cidr"), port["port"])
        for rule in egress(render("external"), "worker-h100")
        for port in rule["ports"]
    }
    assert allowed == {(None, 53), ("10.0.5.0/24", 5432), ("10.0.6.0/24", 6379), ("10.0.7.0/24", 9000)}
    assert "ingress" not in named(render("external"), "NetworkPolicy", "worker-h100")["spec"]


def test_without_downloads_the_hub_is_off_in_every_worker(render: Render) -> None:
    for values, is_offline in (("bundled", True), ("external", True), ("everything", False)):
        workers = [each for each in containers(render(values)) if program(each) == "bitsmith-worker"]
        assert workers
        assert {"HF_HUB_OFFLINE" in each.env for each in workers} == {is_offline}


def test_what_a_bundled_server_lets_in_is_what_speaks_to_it(render: Render) -> None:
    for server, port in (("postgresql", 5432), ("redis", 6379), ("objectstore", 8333)):
        objects = render("bundled")
        speak = {
            component(policy)
            for policy in of_kind(objects, "NetworkPolicy")
            for rule in policy["spec"].get("egress", [])
            for peer in rule.get("to", [])
            if peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") == server
        }
        (rule,) = named(objects, "NetworkPolicy", server)["spec"]["ingress"]
        let_in = {
            peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: rule["ports"][0]["port"]
            for peer in rule["from"]
        }
        assert speak <= set(let_in)
        assert set(let_in.values()) == {port}


def test_migrations_run_before_an_external_database_is_used_and_beside_a_bundled_one(render: Render) -> None:
    job = named(render("external"), "Job", "migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    job = named(render("bundled"), "Job", "migrate")
    assert "annotations" not in job["metadata"]
    changed = named(render("bundled", "--set", "images.api.tag=0.2.0"), "Job", "migrate")
    assert job["metadata"]["name"] != changed["metadata"]["name"]  # a Job cannot be changed in place
    assert [each for each in of_kind(render("minimal"), "Job") if component(each) == "migrate"] == []
