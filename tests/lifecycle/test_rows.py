"""Nothing in the failure table is a mere claim: each row has a test that makes it happen."""

import ast
from pathlib import Path

import pytest

from tests.lifecycle.rows import TABLE

TESTS = Path(__file__).parents[1]


def rows_of(path: Path) -> set[str]:
    """What the `failure` marks of a file name."""
    return {
        ast.literal_eval(node.args[0])
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.failure"
    }


@pytest.fixture(scope="module")
def made_to_happen() -> set[str]:
    return {row for path in TESTS.rglob("test_*.py") for row in rows_of(path)}


@pytest.mark.parametrize("row", TABLE)
def test_a_row_has_a_test_that_makes_it_happen(made_to_happen: set[str], row: str) -> None:
    assert row in made_to_happen
