"""What the demo's data promise: real docstrings, clean, repeatable, and no module on both sides."""

import json
from pathlib import Path

import pytest
from bitsmith_client.demo.dataset import Counts, build
from bitsmith_core.spec import Record, read_records

SOURCE = '''
"""A module."""

def area(width: float, height: float = 1.0) -> float:
    """Return the area
    of a rectangle.

    More words that nobody asked for.
    """

def _private():
    """This one is private and must stay out."""

def short():
    """Too short."""

def silent(): ...

class Circle:
    """A circle around the origin of the plane."""

    def __init__(self, radius): ...

    async def grow(self, by, *, slowly=True):
        """Make the radius larger by some amount."""

    def again(self):
        """Make the radius larger by some amount"""
'''


def records(path: Path) -> list[Record]:
    with path.open("rb") as file:
        return list(read_records(file))


def test_pairs_are_signatures_and_first_paragraphs(tmp_path: Path) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    (library / "shapes.py").write_text(SOURCE)
    (library / "broken.py").write_text("def (:")
    (library / "test").mkdir()
    (library / "test" / "test_shapes.py").write_text(SOURCE)

    counts = build(tmp_path / "data", library=library)

    found = records(tmp_path / "data" / "training.jsonl") if counts.training else []
    found += records(tmp_path / "data" / "validation.jsonl") if counts.validation else []
    assert {(record.messages[1].content, record.messages[2].content) for record in found} == {
        ("What does this do? shapes.area(width, height=1.0)", "Return the area of a rectangle."),
        ("What does this do? shapes.Circle(radius)", "A circle around the origin of the plane."),
        ("What does this do? shapes.Circle.grow(by, *, slowly=True)", "Make the radius larger by some amount."),
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts]:
    folder: Path = tmp_path_factory.mktemp("data")
    return folder, build(folder)


def test_the_standard_library_gives_thousands(built: tuple[Path, Counts]) -> None:
    folder, counts = built
    assert counts.training > 2000
    assert counts.validation > 200
    assert len(records(folder / "training.jsonl")) == counts.training
    assert len(records(folder / "validation.jsonl")) == counts.validation


def test_no_module_and_no_answer_is_on_both_sides(built: tuple[Path, Counts]) -> None:
    folder, _ = built
    modules, answers = [], []
    for name in ("training", "validation"):
        turns = [record.messages for record in records(folder / f"{name}.jsonl")]
        modules.append({question.content.removeprefix("What does this do? ").split(".")[0] for _, question, _ in turns})
        answers.append({answer.content.lower() for _, _, answer in turns})
    assert not modules[0] & modules[1]
    assert not answers[0] & answers[1]


def test_building_twice_gives_the_same_bytes(built: tuple[Path, Counts], tmp_path: Path) -> None:
    folder, counts = built
    assert build(tmp_path) == counts
    for name in ("training.jsonl", "validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_every_line_is_an_object_with_three_turns(built: tuple[Path, Counts]) -> None:
    folder, _ = built
    for line in (folder / "validation.jsonl").read_text(encoding="utf-8").splitlines():
        assert [turn["role"] for turn in json.loads(line)["messages"]] == ["system", "user", "assistant"]
