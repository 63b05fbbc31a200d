"""The programs that the images add to the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from bitsmith_core.settings import DatabaseSettings, StorageSettings

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "docker" / "programs"


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As in the image, where the migrations are a package."""
    folder = environment.pop("folder", "")
    return subprocess.run(
        [sys.executable, PROGRAMS / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": folder, **environment},
    )


@pytest.fixture
def packages(tmp_path: Path) -> str:
    (tmp_path / "bitsmith_migrations").symlink_to(ROOT / "migrations")
    return str(tmp_path)


@pytest.fixture
def empty_database(database_settings: DatabaseSettings) -> str:
    """A new database beside the tests' own."""
    url = database_settings.url.get_secret_value()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS images")
        connection.execute("CREATE DATABASE images")
    return url.rpartition("/")[0] + "/images"


def test_programs_wait_until_the_database_is_migrated(
    empty_database: str, storage_settings: StorageSettings, packages: str
) -> None:
    environment = {
        "BITSMITH_DATABASE_URL": empty_database,
        "BITSMITH_STORAGE_ENDPOINT": storage_settings.endpoint,
        "BITSMITH_STORAGE_ACCESS_KEY": storage_settings.access_key,
        "BITSMITH_STORAGE_SECRET_KEY": storage_settings.secret_key.get_secret_value(),
        "BITSMITH_STORAGE_SECURE": "false",
        "BITSMITH_STORAGE_BUCKET": "made-by-migrate",
        "folder": packages,
    }
    early = run("bitsmith-await-schema", "--within-s", "0", **environment)
    assert early.returncode != 0
    assert "run bitsmith-migrate" in early.stderr

    migrated = run("bitsmith-migrate", "--bucket", **environment)
    assert migrated.returncode == 0, migrated.stderr
    assert run("bitsmith-await-schema", "--within-s", "0", **environment).returncode == 0
    assert run("bitsmith-migrate", "--bucket", **environment).returncode == 0

    with psycopg.connect(empty_database.replace("+psycopg", "")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    newer = run("bitsmith-await-schema", "--within-s", "0", **environment)
    assert newer.returncode == 0, "a release that was rolled back must start beside a newer schema"


def test_a_database_that_is_not_there_is_named(packages: str) -> None:
    url = "postgresql+psycopg://nobody:secret-word@127.0.0.1:1/none"
    for program in ("bitsmith-migrate", "bitsmith-await-schema"):
        done = run(program, "--within-s", "0", folder=packages, BITSMITH_DATABASE_URL=url)
        assert done.returncode != 0
        assert "secret-word" not in done.stderr


def test_requirements_of_an_image_come_from_the_package(tmp_path: Path) -> None:
    listed = run("list-requirements", str(ROOT / "pyproject.toml"), "api,migrate").stdout.splitlines()
    assert any(line.startswith("fastapi") for line in listed)
    assert any(line.startswith("alembic") for line in listed)
    assert not [line for line in listed if line.startswith("torch")]
    unknown = run("list-requirements", str(ROOT / "pyproject.toml"), "nothing")
    assert unknown.returncode != 0
    assert "no extra nothing" in unknown.stderr


@pytest.mark.charts
def test_the_smoke_model_is_the_same_each_time_and_loads(tmp_path: Path) -> None:
    for name in ("once", "again"):
        done = run("make-smoke-model", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert "model.safetensors" in files
    for name in files:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert json.loads((tmp_path / "once" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.charts
@pytest.mark.parametrize("name", ["api", "operator", "worker"])
def test_the_linter_finds_nothing_in_a_dockerfile(name: str) -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.fail(f"{linter} is absent; make test-charts installs it", pytrace=False)
    done = subprocess.run([linter, ROOT / "docker" / f"{name}.Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["api", "operator", "worker"])
def test_every_image_runs_as_the_chart_says(name: str) -> None:
    lines = (ROOT / "docker" / f"{name}.Dockerfile").read_text().splitlines()
    final = lines[max(index for index, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in final
    assert any(line.startswith("HEALTHCHECK") for line in final)
    assert any("PYTHONSAFEPATH=1" in line for line in final)
    assert sum("org.opencontainers.image" in line for line in final) >= 5
