"""helm on a real API server, and what a release leaves there."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kube import Kube

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "bitsmith"
HELM = ROOT / ".cache" / "helm" / "4.3.1" / "helm"
# What the server writes by itself, and what asks other servers when it is listed.
PASSING = {
    "events", "events.events.k8s.io", "leases.coordination.k8s.io", "apiservices.apiregistration.k8s.io",
    "componentstatuses",
}  # fmt: skip


class NoPreviousChart(Exception):
    """Why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    cluster: Kube
    namespace: str
    name: str = "rel"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """helm; nothing is checked."""
        assert HELM.exists(), f"{HELM.relative_to(ROOT)} is absent; make test-k8s fetches it"
        wanted = ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        homes = dict.fromkeys(wanted, str(self.cluster.folder))
        return subprocess.run(
            [str(HELM), "--kubeconfig", str(self.cluster.kubeconfig), "-n", self.namespace, *arguments],
            capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **homes},
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def install(self, *arguments: str, chart: Path = CHART) -> None:
        self("install", self.name, str(chart), *arguments, "--wait", "--timeout", "150s")

    def upgrade(self, *arguments: str, chart: Path = CHART) -> None:
        self("upgrade", self.name, str(chart), *arguments, "--wait", "--timeout", "150s")

    def rollback(self, revision: int) -> None:
        self("rollback", self.name, str(revision), "--wait", "--timeout", "150s")

    def uninstall(self) -> None:
        self("uninstall", self.name, "--wait", "--timeout", "150s")

    def status(self) -> tuple[str, int]:
        """What helm says of it, and the revision."""
        told = json.loads(self("status", self.name, "-o", "json"))
        return told["info"]["status"], told["version"]

    def secrets(self) -> dict[str, dict[str, str]]:
        """Those that programs of the release read, by name, as they are stored."""
        found = self.cluster.core.list_namespaced_secret(self.namespace).items
        return {each.metadata.name: each.data for each in found if each.type == "Opaque"}

    def objects(self) -> set[str]:
        """kind/name of whatever is in the namespace."""
        return listed(self.cluster, "--namespaced=true", "-n", self.namespace)


def cluster_objects(cluster: Kube) -> set[str]:
    """kind/name of whatever is in no namespace."""
    return listed(cluster, "--namespaced=false")


def listed(cluster: Kube, scope: str, *where: str) -> set[str]:
    kinds = set(cluster("api-resources", scope, "--verbs=list", "-o", "name").split()) - PASSING
    return set(cluster("get", ",".join(sorted(kinds)), *where, "-o", "name", "--ignore-not-found").split())


def previous_chart(folder: Path) -> Path:
    """The chart before its last change, as git has it.

    Raises:
        NoPreviousChart
    """
    place = str(CHART.relative_to(ROOT))

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
        if done.returncode != 0:
            raise NoPreviousChart(f"git {arguments[0]}: {done.stderr.decode().strip()}")
        return done.stdout

    is_changed_since = bool(git("status", "--porcelain", "--", place).strip())
    commits = git("log", "-2", "--format=%H", "--", place).decode().split()
    if not is_changed_since:
        commits = commits[1:]
    if not commits:
        raise NoPreviousChart("the history that git has here ends before the chart's last change")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=git("archive", commits[0], place), check=True)
    return folder / place


def capable(cluster: Kube, api: str) -> bool:
    return api in cluster("api-versions").split()
