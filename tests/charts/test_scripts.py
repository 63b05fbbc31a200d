"""The two programs that the chart carries: the one that makes Secrets, and the one that `helm test` runs."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bitsmith_client.lab.stack import Stack
from bitsmith_client.lab.state import LabState
from rendered_chart import named, pod

from tests.charts.conftest import CHART, ROOT, Render

pytestmark = pytest.mark.charts


class Cluster(ThreadingHTTPServer):
    """The one route of the Kubernetes API that the script calls, over TLS, and what it stored."""

    secrets: dict[str, dict[str, Any]]
    is_forbidden = False


class Route(BaseHTTPRequestHandler):
    server: Cluster

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = body["metadata"]["name"]
        if self.server.is_forbidden or self.headers["Authorization"] != "Bearer token-of-the-job":
            return self._answer(403, {"message": "forbidden"})
        if self.path != "/api/v1/namespaces/ft/secrets":
            return self._answer(404, {"message": self.path})
        if name in self.server.secrets:
            return self._answer(409, {"reason": "AlreadyExists"})
        self.server.secrets[name] = body["stringData"]
        return self._answer(201, body)

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account's folder as Kubernetes mounts it."""
    certificate: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=kubernetes",
    ]
    names: list[str | Path] = [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        tmp_path / "key",
        "-out",
        tmp_path / "ca.crt",
    ]
    subprocess.run([*certificate, *names], check=True, capture_output=True)
    (tmp_path / "token").write_text("token-of-the-job")
    return tmp_path


@pytest.fixture
def cluster(account: Path) -> Iterator[Cluster]:
    server = Cluster(("127.0.0.1", 0), Route)
    server.secrets = {}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def make_secrets(command: list[str], cluster: Cluster, account: Path) -> subprocess.CompletedProcess[str]:
    host, port = cluster.server_address[:2]
    environment = {
        "KUBERNETES_SERVICE_HOST": str(host), "KUBERNETES_SERVICE_PORT": str(port), "SERVICE_ACCOUNT": str(account),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_secrets_are_made_once_and_never_changed(render: Render, cluster: Cluster, account: Path) -> None:
    (container,) = pod(named(render("bundled"), "Job", "secrets"))["containers"]
    cluster.secrets["rel-bitsmith-redis"] = {"password": "a person's own"}

    first = make_secrets(container["command"], cluster, account)
    assert first.returncode == 0, first.stderr
    made = json.loads(json.dumps(cluster.secrets))
    assert make_secrets(container["command"], cluster, account).returncode == 0

    assert cluster.secrets == made
    assert made["rel-bitsmith-redis"] == {"password": "a person's own"}
    database, auth = made["rel-bitsmith-postgresql"], made["rel-bitsmith-auth"]
    assert database["url"] == (
        f"postgresql+psycopg://bitsmith:{database['password']}@rel-bitsmith-postgresql:5432/bitsmith"
    )
    assert len({database["password"], auth["api-key"], auth["serving-token"]}) == 3
    assert not [value for value in auth.values() if value in first.stdout + first.stderr]


def test_a_refusal_of_the_cluster_ends_the_job(render: Render, cluster: Cluster, account: Path) -> None:
    (container,) = pod(named(render("bundled"), "Job", "secrets"))["containers"]
    cluster.is_forbidden = True
    done = make_secrets(container["command"], cluster, account)
    assert done.returncode != 0
    assert "403" in done.stderr


def test_every_key_that_a_pod_asks_for_is_made(render: Render) -> None:
    from rendered_chart import containers

    objects = render("bundled")
    (container,) = pod(named(objects, "Job", "secrets"))["containers"]
    plan = json.loads(container["command"][-1])
    asked = {
        (reference["name"], reference["key"])
        for each in containers(objects)
        for variable in each.env.values()
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert asked == {(name, key) for name, keys in plan.items() for key in keys}


@pytest.fixture(scope="module")
def lab() -> Iterator[Stack]:
    """A whole platform with the model that the worker's image brings."""
    folder = Path(tempfile.mkdtemp(prefix="bitsmith-helm-test-"))
    folder.chmod(0o711)
    state = LabState(folder)
    state.prepare()
    maker = ROOT / "docker" / "programs" / "make-smoke-model"
    subprocess.run([sys.executable, maker, state.models / "bitsmith-smoke"], check=True)
    with Stack(state) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


def run_smoke(lab: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CHART / "files" / "smoke.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "BITSMITH_URL": lab.config.url, "BITSMITH_API_KEY": lab.config.api_key},
    )


def test_helm_test_sends_a_tiny_job_through_everything(lab: Stack) -> None:
    done = run_smoke(lab, "local:bitsmith-smoke", "600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every SHA-256 as promised" in done.stdout


def test_helm_test_fails_with_a_reason(lab: Stack) -> None:
    done = run_smoke(lab, "local:nobody-has-this", "60")
    assert done.returncode != 0
    assert "nobody-has-this" in done.stdout + done.stderr


def test_the_test_pod_runs_that_program(render: Render) -> None:
    (container,) = pod(named(render("bundled"), "Pod", "test"))["containers"]
    assert container["command"][2] == (CHART / "files" / "smoke.py").read_text()
