"""What machines of one run see of rank 0's files, and how long its processes wait for each other."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.wire import FailureClass
from bitsmith_engine import joining
from bitsmith_engine.copies import Copies
from bitsmith_engine.errors import RanksMissing, Stopped, ToldBy
from bitsmith_engine.joining import joined_ranks
from bitsmith_engine.runtime import Single
from torch.distributed import HashStore  # type: ignore[attr-defined]  # exported without saying so
from torch.multiprocessing.spawn import spawn
from toy_copies import MACHINES, copy_rank

from tests.engine.test_distributed import a_free_port

FILES = {"weights.bin": 2**20 + 3, "deep/state.json": 7, "empty": 0}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    root = tmp_path_factory.mktemp("machines")
    for name, size in FILES.items():
        path = root / "a" / "stages" / "quantizing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(index % 251 for index in range(size)))
    stale = root / "b" / "stages" / "quantizing" / "of another run"
    stale.parent.mkdir(parents=True)
    stale.touch()
    for folder, content in (
        (root / "model", b"same"),
        (root / "a" / "model", b"ours"),
        (root / "b" / "model", b"else"),
    ):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(content)
    spawn(copy_rank, (3, a_free_port(), str(root)), nprocs=3)  # type: ignore[no-untyped-call]
    told = {rank: json.loads((root / f"{rank}.json").read_text()) for rank in MACHINES}
    for name in FILES:
        ours, theirs = (root / machine / "stages" / "quantizing" / name for machine in "ab")
        assert ours.read_bytes() == theirs.read_bytes()
    return told


def test_every_machine_has_what_rank_0_has_and_nothing_else(found: dict[int, dict[str, Any]]) -> None:
    for told in found.values():
        assert told["needed"]
        assert told["seen"] == FILES


def test_rank_0_has_what_the_others_wrote_and_their_copies_go(found: dict[int, dict[str, Any]]) -> None:
    assert found[0]["brought"] == {f"rank-{rank}": bytes([rank] * (100 + rank)).hex() for rank in MACHINES}
    assert "part" in found[0]["left"]
    assert found[1]["left"] == ["model", "stages"]


def test_machines_that_have_other_weights_under_one_name_are_told(found: dict[int, dict[str, Any]]) -> None:
    assert "rank 0 and rank 1" in found[0]["complaint"]
    for rank in (1, 2):
        assert f"rank {rank} and rank 0" in found[rank]["complaint"]


def test_a_process_alone_needs_no_copies(tmp_path: Path) -> None:
    copies = Copies(Single(), tmp_path)
    copies.spread(tmp_path / "absent")
    copies.bring(tmp_path / "absent", source=0)
    assert not copies.are_needed
    assert list(tmp_path.iterdir()) == []


def alone_of_two() -> dict[str, str]:
    return {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(a_free_port())}


def test_processes_that_never_come_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_JOIN_WITHIN_S", 0.3)
    with (
        pytest.raises(RanksMissing, match="1 of 2 processes came together") as caught,
        joined_ranks(alone_of_two(), torch.device("cpu")),
    ):
        raise AssertionError("nobody else was there")
    assert caught.value.failure is FailureClass.INFRA


def test_who_is_asked_to_stop_while_waiting_for_the_others_stops() -> None:
    with pytest.raises(Stopped), joined_ranks(alone_of_two(), torch.device("cpu"), should_stop=lambda: True):
        raise AssertionError("nobody else was there")


def test_a_process_that_shows_nothing_new_is_noticed_and_one_that_is_over_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joining, "_SILENT_S", -1.0)
    store = HashStore()
    store.set("beat/1", "1")
    store.set("beat/2", "over")
    others = joining._Others([1, 2])
    assert others.look(store) is None
    store.set("beat/1", "2")
    assert others.look(store) is None
    failed = others.look(store)
    assert failed is not None
    assert (failed.failure, failed.code) == (FailureClass.INFRA, "rank_lost")
    assert "rank 1" in failed.message


def test_processes_that_wait_for_different_numbers_of_others_say_so_instead() -> None:
    """Node 0 has one GPU and node 1 two, say: neither number would ever be met by the other's count."""
    port = str(a_free_port())
    told: list[str] = []

    def join(rank: int, size: int) -> None:
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank), "WORLD_SIZE": str(size)}
        with pytest.raises((RanksMissing, ToldBy)) as caught, joined_ranks(there, torch.device("cpu")):
            raise AssertionError("they cannot have met")
        told.append(str(caught.value))

    threads = [threading.Thread(target=join, args=(rank, size)) for rank, size in ((0, 2), (1, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(told) == 2
    assert told[0] == told[1]
    assert "every node needs as many" in told[0]
