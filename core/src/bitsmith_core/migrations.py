"""Where the database's migrations are."""

import importlib.util
from pathlib import Path


def folder() -> Path:
    """The folder with alembic.ini, as installed with the package, or in the source tree.

    Raises:
        FileNotFoundError: saying what to do.
    """
    spec = importlib.util.find_spec("bitsmith_migrations")
    installed = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for found in (*installed, Path(__file__).parents[3] / "migrations"):
        if (found / "alembic.ini").is_file():
            return found
    raise FileNotFoundError("the database migrations are not installed with this package; reinstall bitsmith")
