"""Migrations and models say the same, and every migration can be taken back."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bitsmith_core.settings import DatabaseSettings
from sqlalchemy import create_engine, inspect, make_url, text

INI = Path(__file__).parents[2] / "migrations" / "alembic.ini"

Alembic = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def url(database_settings: DatabaseSettings) -> Iterator[str]:
    """An empty database beside the one the other tests use."""
    shared = make_url(database_settings.url.get_secret_value())
    admin = create_engine(shared, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS migrations_test"))
        connection.execute(text("CREATE DATABASE migrations_test"))
    yield shared.set(database="migrations_test").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE migrations_test WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def alembic(url: str, tmp_path: Path) -> Alembic:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "alembic", "-c", str(INI), *arguments],
            env={**os.environ, "BITSMITH_DATABASE_URL": url},
            cwd=tmp_path,  # self-contained: works from any folder
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_up_down_up(alembic: Alembic, url: str) -> None:
    assert alembic("upgrade", "head").returncode == 0
    first = tables(url)
    assert {"jobs", "attempts", "job_events", "outbox", "files", "models", "versions", "eval_results"} < first
    assert alembic("downgrade", "base").returncode == 0
    assert tables(url) == {"alembic_version"}
    assert alembic("upgrade", "head").returncode == 0
    assert tables(url) == first


def test_the_models_and_the_newest_migration_agree(alembic: Alembic) -> None:
    assert alembic("upgrade", "head").returncode == 0
    check = alembic("check")
    assert check.returncode == 0, check.stdout + check.stderr


def test_two_migrating_at_once_do_not_collide(url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "alembic", "-c", str(INI), "upgrade", "head"]
    environment = {**os.environ, "BITSMITH_DATABASE_URL": url}
    both = [subprocess.Popen(command, env=environment, cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
