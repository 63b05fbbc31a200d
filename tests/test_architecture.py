"""The layout's promises that no linter sees."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BAN = """
import sys

class Ban:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "gguf", "numpy"}:
            raise ImportError(f"a program other than the engine imported {name}")

sys.meta_path.insert(0, Ban())
"""


@pytest.mark.parametrize(
    "program",
    [
        "bitsmith_api.app",
        "bitsmith_client.cli",
        "bitsmith_operator.main",
        "bitsmith_scheduler.main",
        "bitsmith_serving.app",
        "bitsmith_worker.tasks",
    ],
)
def test_only_the_engine_needs_torch(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"{BAN}\nimport {program}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_ban_would_notice() -> None:
    result = subprocess.run([sys.executable, "-c", f"{BAN}\nimport torch"], capture_output=True, check=False)
    assert b"a program other than the engine imported torch" in result.stderr


def test_no_top_level_folder_is_a_package() -> None:
    """A package called operator at the root shadows the standard library's and kills every process started there."""
    assert not list(ROOT.glob("*/__init__.py"))


def test_no_package_is_called_operator() -> None:
    sources = [ROOT / folder for folder in ("api", "core", "operator", "worker", "migrations", "tests")]
    assert not [path for source in sources for path in source.rglob("operator/__init__.py")]


def test_torch_is_imported_under_the_engine_only() -> None:
    """As text too, so that an import inside a function does not hide."""
    sources = [path for folder in ("api", "core", "operator", "worker") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    importing = {path for path in sources if any(_imports_torch(line) for line in path.read_text().splitlines())}
    assert {path for path in importing if "bitsmith_engine" not in path.parts} == set()


def _imports_torch(line: str) -> bool:
    return line.strip().startswith(("import torch", "from torch"))
