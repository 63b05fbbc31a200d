"""A server of custom resources only, as new as the definitions' rules need: upstream's apiextensions-apiserver.

$APIEXTENSIONS_APISERVER names the binary. It stores in the cluster's etcd and asks the cluster who somebody is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitsmith_client.lab import servers
from bitsmith_client.lab.child import Child, ChildSpec
from kube import Kube


class NoSuchServer(Exception):
    """There is none to start."""


@contextmanager
def running(cluster: Kube, folder: Path) -> Iterator[Kube]:
    """No discovery is in it, so kubectl finds nothing there; the API does.

    Raises:
        NoSuchServer
    """
    binary = os.environ.get("APIEXTENSIONS_APISERVER")
    if binary is None:
        raise NoSuchServer("set APIEXTENSIONS_APISERVER to a build of k8s.io/apiextensions-apiserver, 0.29 or newer")
    port, config = servers.free_port(), cluster.kubeconfig
    authority = folder / "certificates" / "apiserver.crt"
    found: list[Kube] = []

    def is_serving() -> bool:
        if not authority.exists():
            return False
        found[:] = [Kube(folder, f"https://{servers.LOOPBACK}:{port}", authority, cluster.etcd)]
        return found[0].run("get", "--raw", "/readyz").returncode == 0

    flags = [
        f"--etcd-servers={cluster.etcd}", "--etcd-prefix=/extensions", f"--bind-address={servers.LOOPBACK}",
        f"--secure-port={port}", f"--cert-dir={authority.parent}", "--authentication-skip-lookup",
        *(f"--{of}kubeconfig={config}" for of in ("", "authentication-", "authorization-")),
        "--enable-priority-and-fairness=false",
        "--disable-admission-plugins=ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
    ]  # fmt: skip
    spec = ChildSpec(name="apiextensions-apiserver", command=[binary, *flags], is_ready=is_serving)
    child = Child(spec, folder)
    child.start()
    try:
        child.wait_ready()
        yield found[0]
    finally:
        child.stop()
