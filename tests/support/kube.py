"""A Kubernetes API server with its controllers on this machine, without nodes, and kubectl for it.

The binaries come from the folder $KUBEBUILDER_ASSETS (the convention of envtest): etcd, kube-apiserver,
kube-controller-manager and, for `scheduling`, kube-scheduler. Any version of Kubernetes from 1.20 on.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import kubernetes.client
import kubernetes.config
import yaml
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from bitsmith_operator.objects import GROUP, VERSION

TOKEN = "only-for-tests"
NODE = "here"  # whatever is bound to no node that exists is collected
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")


class BinariesAbsent(Exception):
    """There is nothing to start."""


def assets(programs: Sequence[str] = PROGRAMS) -> Path:
    """
    Raises:
        BinariesAbsent
    """
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        raise BinariesAbsent(
            f"set KUBEBUILDER_ASSETS to a folder with {', '.join(programs)} (of a release of Kubernetes, and etcd)"
        )
    absent = [name for name in programs if not (Path(named) / name).exists()]
    if absent:
        raise BinariesAbsent(f"KUBEBUILDER_ASSETS={named} lacks {', '.join(absent)}")
    return Path(named)


class Kube:
    def __init__(self, folder: Path, url: str, authority: Path, etcd: str) -> None:
        self.folder, self.url, self.authority, self.etcd = folder, url, authority, etcd
        self.kubeconfig = self.config("admin", TOKEN)
        api = kubernetes.config.new_client_from_config(str(self.kubeconfig))
        self.core = kubernetes.client.CoreV1Api(api)
        self.custom = kubernetes.client.CustomObjectsApi(api)

    def config(self, name: str, token: str) -> Path:
        """A kubeconfig for whoever has that token."""
        path = self.folder / f"{name}.kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "it",
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
                    "clusters": [
                        {"name": "it", "cluster": {"server": self.url, "certificate-authority": str(self.authority)}}
                    ],
                    "users": [{"name": "me", "user": {"token": token}}],
                }
            )
        )
        return path

    def run(
        self, *arguments: str, given: str | None = None, config: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """kubectl; nothing is checked."""
        program = Path(sys.executable).with_name("kubectl")
        command = [str(program), "--kubeconfig", str(config or self.kubeconfig), "--cache-dir", str(self.folder / "c")]
        return subprocess.run([*command, *arguments], input=given, capture_output=True, text=True, check=False)

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        done = self.run(*arguments, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """One of our objects."""
        found: dict[str, Any] = self.custom.get_namespaced_custom_object(GROUP, VERSION, namespace, plural, name)
        return found

    def pods(self, namespace: str) -> dict[str, bool]:
        """Name -> whether it leaves."""
        found = self.core.list_namespaced_pod(namespace).items
        return {pod.metadata.name: pod.metadata.deletion_timestamp is not None for pod in found}

    def apply(self, *bodies: dict[str, Any]) -> None:
        self("apply", "-f", "-", given=yaml.safe_dump_all(bodies))


@contextmanager
def running(folder: Path) -> Iterator[Kube]:
    binaries, children = assets(), list[Child]()
    store, peers, port, manager = (servers.free_port() for _ in range(4))
    host = servers.LOOPBACK
    key = folder / "accounts.key"
    _make_key(key)
    tokens = folder / "tokens.csv"
    tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
    etcd, peer = f"http://{host}:{store}", f"http://{host}:{peers}"
    authority = folder / "certificates" / "apiserver.crt"

    def start(name: str, is_ready: Callable[[], bool], *flags: str) -> None:
        child = Child(ChildSpec(name=name, command=[binaries / name, *flags], is_ready=is_ready), folder)
        children.append(child)
        child.start()
        child.wait_ready()

    try:
        start(
            "etcd", lambda: _answers(f"{etcd}/health"),
            f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
        )  # fmt: skip
        kube: list[Kube] = []

        def is_serving() -> bool:
            if not authority.exists():
                return False
            kube[:] = [Kube(folder, f"https://{host}:{port}", authority, etcd)]
            return kube[0].run("get", "--raw", "/readyz").returncode == 0

        start(
            "kube-apiserver", is_serving,
            f"--etcd-servers={etcd}", f"--bind-address={host}", f"--advertise-address={host}", f"--secure-port={port}",
            f"--cert-dir={authority.parent}", f"--token-auth-file={tokens}", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
        )  # fmt: skip
        start(
            "kube-controller-manager", lambda: bool(kube[0].run("get", "sa", "default", "-n", "default").stdout),
            f"--kubeconfig={kube[0].kubeconfig}", f"--service-account-private-key-file={key}", "--leader-elect=false",
            f"--bind-address={host}", f"--secure-port={manager}", f"--root-ca-file={authority}",
            f"--cert-dir={folder / 'manager'}", *_encrypted_only(binaries / "kube-controller-manager"),
            "--controllers=*,-nodeipam,-nodelifecycle,-route,-service,-cloud-node-lifecycle",
        )  # fmt: skip
        kube[0].core.create_node({"metadata": {"name": NODE}})
        yield kube[0]
    finally:
        for child in reversed(children):
            child.stop()


@contextmanager
def scheduling(cluster: Kube) -> Iterator[None]:
    """Pods are bound to nodes that have room for them.

    Raises:
        BinariesAbsent
    """
    name = "kube-scheduler"
    binary = assets((name,)) / name
    flags = [
        f"--kubeconfig={cluster.kubeconfig}", "--leader-elect=false", f"--bind-address={servers.LOOPBACK}",
        f"--secure-port={servers.free_port()}", f"--cert-dir={cluster.folder / 'scheduler'}", *_encrypted_only(binary),
    ]  # fmt: skip
    child = Child(ChildSpec(name=name, command=[binary, *flags], is_ready=lambda: True), cluster.folder)
    child.start()
    try:
        yield
    finally:
        child.stop()


def _encrypted_only(binary: Path) -> list[str]:
    """Programs up to 1.23 open a well-known port without TLS as well, which two of them cannot share."""
    described = subprocess.run([str(binary), "--help"], capture_output=True, text=True, check=True).stdout
    return ["--port=0"] if " --port int" in described else []


def _make_key(path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise BinariesAbsent("openssl makes the key that service accounts' tokens are signed with; install it")
    subprocess.run([openssl, "genrsa", "-out", str(path), "2048"], check=True, capture_output=True)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):  # our own server's
            return True
    except (URLError, OSError):
        return False
