"""Brings a database to a schema. The migrations are Alembic's, run in a process of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path


class MigrationFailed(Exception):
    """With what Alembic said, or with what to do."""


def upgrade(database_url: str, *, revision: str = "head") -> None:
    """Bring the database to that schema; nothing happens where it is there already. Two at once wait for each other.

    Raises:
        MigrationFailed
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "alembic", "-c", str(_folder() / "alembic.ini"), "upgrade", revision],
        env={**os.environ, "BITSMITH_DATABASE_URL": database_url},
        cwd="/",
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise MigrationFailed(f"{done.stderr}{done.stdout}".strip())  # its own errors are on stdout


def _folder() -> Path:
    """In the source tree, where this is one: beside an editable install lies a copy of how they once were."""
    spec = importlib.util.find_spec("bitsmith_migrations")
    installed = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for found in (Path(__file__).parents[3] / "migrations", *installed):
        if (found / "alembic.ini").is_file():
            return found
    raise MigrationFailed("the database migrations are not installed with this package; reinstall bitsmith")
