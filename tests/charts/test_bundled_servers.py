"""The bundled servers, started by the very commands of the chart, do what the platform relies on."""

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import yaml
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_core.errors import StoreUnavailable
from bitsmith_core.settings import StorageSettings
from bitsmith_core.storage import S3Store
from pydantic import SecretStr
from rendered_chart import named, pod

from tests.charts.conftest import ROOT, Render

pytestmark = pytest.mark.charts


@contextmanager
def running(name: str, command: list[str], folder: Path, port: int, **environment: str) -> Iterator[None]:
    path = f"{Path(sys.prefix) / 'bin'}:{servers._valkey_binary().parent}:{os.environ['PATH']}"
    spec = ChildSpec(
        name=name,
        command=command,
        environment={"PATH": path, **environment},
        is_ready=lambda: not servers.is_free(port),
    )
    child = Child(spec, folder)
    child.start()
    try:
        child.wait_ready()
        yield
    finally:
        child.stop()


def command_of(render: Render, component: str, folder: Path) -> list[str]:
    """As in the chart, with the container's folders below `folder`."""
    (container,) = pod(named(render("bundled"), "StatefulSet", component))["containers"]
    (folder / "data").mkdir()
    return [
        re.sub(r"/(data|tmp/)", lambda found: f"{folder}/{found[1].removeprefix('tmp/')}", part)
        for part in container["command"]
    ]


def test_the_object_store_has_its_bucket_and_opens_for_its_key_only(render: Render, tmp_path: Path) -> None:
    port, secret = servers.free_port(), secrets.token_hex(12)
    ports = [f"-{name}.port={servers.free_port()}" for name in ("master", "volume", "filer", "admin")]
    sockets = [f"-{name}.localSocket={tmp_path / name}.sock" for name in ("filer", "s3")]
    command = [part for part in command_of(render, "objectstore", tmp_path) if not part.startswith("-s3.port=")]
    command = [*command, f"-s3.port={port}", *ports, *sockets, "-ip.bind=127.0.0.1"]

    with running("weed", command, tmp_path, port, AWS_ACCESS_KEY_ID="bitsmith", AWS_SECRET_ACCESS_KEY=secret):
        settings = StorageSettings(
            endpoint=f"127.0.0.1:{port}", access_key="bitsmith", secret_key=SecretStr(secret), secure=False
        )
        store = S3Store(settings)
        store.ensure_bucket()
        source = tmp_path / "source"
        source.write_bytes(b"codes")
        store.put_file("a/b", source)
        assert store.stat("a/b") is not None

        stranger = S3Store(settings.model_copy(update={"secret_key": SecretStr("wrong-key")}))
        with pytest.raises(StoreUnavailable):
            stranger.stat("a/b")


def test_the_queue_asks_for_its_password_and_never_drops_a_message(render: Render, tmp_path: Path) -> None:
    port, password = servers.free_port(), secrets.token_hex(12)
    command = command_of(render, "redis", tmp_path)
    command[-1] = command[-1].replace("appendonly yes", f"appendonly yes\\nport {port}\\nbind 127.0.0.1")

    with running("valkey", command, tmp_path, port, PASSWORD=password):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        queue = redis.Redis(port=port, password=password, decode_responses=True)
        assert queue.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert queue.config_get("appendonly") == {"appendonly": "yes"}


def test_one_host_runs_the_same_servers_as_a_cluster(render: Render) -> None:
    """compose.yaml and the chart do not drift apart."""
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for service, component in (("postgres", "postgresql"), ("valkey", "redis"), ("objectstore", "objectstore")):
        (container,) = pod(named(render("bundled"), "StatefulSet", component))["containers"]
        assert services[service]["image"] == container["image"]
    (store,) = pod(named(render("bundled"), "StatefulSet", "objectstore"))["containers"]
    assert services["objectstore"]["entrypoint"] + services["objectstore"]["command"] == store["command"]
    (queue,) = pod(named(render("bundled"), "StatefulSet", "redis"))["containers"]
    assert services["valkey"]["command"][-1].replace("$$", "$") == queue["command"][-1]


def test_compose_is_read_by_the_programs_it_starts() -> None:
    from tests.charts.test_settings import OF_OTHERS, PROGRAMS, names_of

    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    for name in ("migrate", "api", "scheduler", "worker", "serving"):
        known = set().union(*(names_of(settings) for settings in PROGRAMS[f"bitsmith-{name}"])) | OF_OTHERS
        assert set(services[name]["environment"]) <= known, name


def test_one_host_has_a_model_before_anybody_brings_one() -> None:
    """A volume without a folder of the host begins as a copy of what the image has there: the tiny model."""
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    (image,) = re.findall(r"make-smoke-model (\S+)/bitsmith-smoke", (ROOT / "docker" / "worker.Dockerfile").read_text())
    (mount,) = (each for each in services["services"]["worker"]["volumes"] if "BITSMITH_MODELS" in each)
    assert mount == f"${{BITSMITH_MODELS:-models}}:{image}:ro"
    assert "models" in services["volumes"]
    assert "BITSMITH_WORKER_MODELS" not in services["services"]["worker"]["environment"]
    assert f"BITSMITH_WORKER_MODELS={image}" in (ROOT / "docker" / "worker.Dockerfile").read_text()


def test_passwords_are_made_anew_and_are_all_that_compose_asks_for() -> None:
    once, again = (subprocess.run([ROOT / "docker" / "make-env"], capture_output=True, text=True, check=True).stdout
                   for _ in range(2))  # fmt: skip
    made = dict(line.split("=") for line in once.splitlines())
    text = (ROOT / "docker" / "compose.yaml").read_text()
    asked = {part.partition(":?")[0] for part in text.split("${")[1:] if ":?" in part.partition("}")[0]}
    assert asked == set(made)
    assert all(len(value) == 48 for value in made.values())
    assert not set(made.values()) & {line.split("=")[1] for line in again.splitlines()}
