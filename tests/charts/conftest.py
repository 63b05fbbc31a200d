"""The chart, rendered by real helm binaries. `make test-charts` fetches them first."""

import functools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rendered_chart import Object

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "bitsmith"
HELMS = ROOT / ".cache" / "helm"
VERSIONS = ("4.3.1", "3.18.0")
CI_VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*.yaml"))
# As on a cluster that has everything; without them the chart refuses what such objects ask for.
EVERY_API = ("--api-versions=gateway.networking.k8s.io/v1", "--api-versions=monitoring.coreos.com/v1")

Helm = Callable[..., subprocess.CompletedProcess[str]]
Render = Callable[..., list[Object]]


def run_helm(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = HELMS / version / "helm"
    if not binary.exists():
        pytest.fail(f"{binary.relative_to(ROOT)} is absent; make test-charts fetches it", pytrace=False)
    folder = str(HELMS / "home")
    homes = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), folder)
    return subprocess.run(
        [str(binary), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **homes},
    )


@functools.cache
def rendered_text(values: str, version: str, arguments: tuple[str, ...]) -> str:
    chosen = ("-f", str(CHART / "ci" / f"{values}-values.yaml"))
    done = run_helm(version, "template", "rel", str(CHART), "-n", "ft", *chosen, *EVERY_API, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def helm() -> Helm:
    """Runs the newest helm: helm("lint", "..."). Nothing is checked."""
    return functools.partial(run_helm, VERSIONS[0])


@pytest.fixture
def render() -> Render:
    """render("external", "--set", "a=b"): the objects of ci/external-values.yaml."""

    def objects(values: str, *arguments: str) -> list[Object]:
        return parsed(rendered_text(values, VERSIONS[0], arguments))

    return objects


@functools.cache
def parsed(text: str) -> list[Object]:
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each is not None]
