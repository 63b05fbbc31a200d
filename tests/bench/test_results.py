"""A bench that is interrupted keeps its rows, and a difference comes with an error that pairing has made small."""

import json
import math
from pathlib import Path

import pytest
from peers.ours import cache_of
from results import Results, table
from tables import paired_difference


def test_rows_are_on_disk_at_once_with_command_machine_and_versions(tmp_path: Path) -> None:
    results = Results(tmp_path / "out" / "x.json", settings={"model": "m"}, resume=False)
    results.add({"loss": 1.5}, method="a", seed=1)
    document = json.loads((tmp_path / "out" / "x.json").read_text())
    assert document["rows"] == [{"key": {"method": "a", "seed": 1}, "settings": {"model": "m"}, "loss": 1.5}]
    assert document["hardware"]["cores"] >= 1
    assert document["versions"]["torch"].startswith("2.")
    assert "python" in document["command"]


def test_resuming_takes_over_rows_of_the_same_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    Results(path, settings={"model": "m"}, resume=False).add({"loss": 1.5}, method="a")
    assert Results(path, settings={"model": "m"}, resume=True).has(method="a")
    assert not Results(path, settings={"model": "other"}, resume=True).has(method="a")
    assert not Results(path, settings={"model": "m"}, resume=False).has(method="a")


def test_starts_of_two_models_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (cache_of(f"{owner}/model", tmp_path / "cache") for owner in ("one", "two"))
    assert first != second
    assert first == cache_of(str(tmp_path / "one" / "model"), tmp_path / "cache")


def test_a_row_of_the_same_key_is_replaced(tmp_path: Path) -> None:
    results = Results(tmp_path / "x.json", settings={}, resume=False)
    results.add({"loss": 1.0}, method="a")
    results.add({"loss": 2.0}, method="a")
    assert [row["loss"] for row in results.rows] == [2.0]


def test_pairing_removes_what_the_items_have_in_common() -> None:
    tokens = [10, 20, 30, 40]
    mine = [5.0, 40.0, 20.0, 90.0]  # hard and easy items
    theirs = [nll + 0.1 * count for nll, count in zip(mine, tokens, strict=True)]
    value, stderr = paired_difference(theirs, mine, tokens)
    assert value == pytest.approx(0.1)
    assert stderr == pytest.approx(0.0, abs=1e-9)


def test_the_paired_error_of_equally_long_items_is_the_textbooks() -> None:
    gains = [1.0, 2.0, 4.0, 5.0]
    _, stderr = paired_difference(gains, [0.0] * 4, [1] * 4)
    deviation = math.sqrt(sum((gain - 3.0) ** 2 for gain in gains) / 3)
    assert stderr == pytest.approx(deviation / math.sqrt(4))


def test_a_table_is_markdown_with_numbers_to_the_right() -> None:
    assert table([["ours", "1.5"], ["a", "22"]], ["method", "loss"]).splitlines() == [
        "| method | loss |",
        "| ------ | ---: |",
        "| ours   |  1.5 |",
        "| a      |   22 |",
    ]
