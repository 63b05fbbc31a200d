"""What data-parallel ranks promise: equal to each other bit for bit, and the run that one process would have made."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.wire import ExitStatus, Failed, decode
from bitsmith_engine.joining import joined_ranks
from bitsmith_engine.runtime import Single
from torch.multiprocessing.spawn import spawn
from toy_ranks import RUNS, run_rank
from toy_training import CPU, Listener, toy

from tests.engine.conftest import toy_spec

SIZE = 2


def a_free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def found(toy_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw."""
    out = tmp_path_factory.mktemp("ranks")
    spawn(run_rank, (SIZE, a_free_port(), str(toy_inputs), str(out)), nprocs=SIZE)  # type: ignore[no-untyped-call]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(SIZE)]


def test_sums_and_gathers_are_the_same_everywhere(found: list[dict[str, Any]]) -> None:
    parts = [torch.randn(1000, generator=torch.Generator().manual_seed(rank)) for rank in range(SIZE)]
    for seen in (rank["sums"] for rank in found):
        assert torch.equal(seen["sum"], parts[0] + parts[1])
        assert torch.equal(seen["view"], torch.full((2, 3), 3.0))
        assert seen["broadcast"].tolist() == [1, 1]
        assert [tensor.tolist() for tensor in seen["gather"]] == [[0], [1]]
        assert [tensor.tolist() for tensor in seen["ragged"]] == [[], [0, 1, 2]]


@pytest.mark.parametrize("name", RUNS)
def test_ranks_end_with_the_same_bits(found: list[dict[str, Any]], name: str) -> None:
    first, second = (rank[name] for rank in found)
    assert all(torch.equal(tensor, second["state"][key]) for key, tensor in first["state"].items())
    assert first["facts"] == second["facts"]
    assert first["losses"] == second["losses"]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_what_one_trains(found: list[dict[str, Any]], toy_inputs: Path, name: str) -> None:
    alone, listener = toy(toy_inputs, **RUNS[name]), Listener()
    facts = alone.train(listener, train_norms=name == "norms")
    assert found[0][name]["losses"] == pytest.approx([step["loss"] for step in listener.metrics], abs=1e-4)
    assert found[0][name]["facts"]["flips"] == facts.flips
    state, codes, differing = alone.state(), 0, 0
    for key, theirs in found[0][name]["state"].items():
        if key.endswith(".codes"):
            codes += theirs.numel()
            differing += int((theirs != state[key]).sum())
        else:
            torch.testing.assert_close(theirs, state[key], rtol=2e-3, atol=1e-4)
    # Sums in another order differ in the last bit, and a code on the edge of its cell may fall to either side.
    assert differing / codes < 1e-3


def test_one_process_asked_to_stop_stops_all_and_they_continue_bit_for_bit(found: list[dict[str, Any]]) -> None:
    assert [rank["stopped"]["steps"] for rank in found] == [2, 2]
    assert found[1]["stopped"]["message"] == "asked to"
    assert "another process" in found[0]["stopped"]["message"]
    for rank in found:
        assert all(torch.equal(tensor, rank["even"]["state"][key]) for key, tensor in rank["stopped"]["state"].items())


def test_a_process_that_fails_alone_ends_the_one_that_waits_for_it(toy_inputs: Path, tmp_path: Path) -> None:
    """The second one cannot write its part of a checkpoint, while the first waits for it in a sum."""
    quantization = {"scheme": "uniform", "bits": 4, "initial": "rtn", "distillation": None}
    training = {"batch_size": 8, "max_length": 64, "max_steps": 3, "checkpoint_steps": 1}
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(toy_spec(quantization=quantization, training=training).model_dump_json())
    command = [sys.executable, "-m", "bitsmith_engine", str(spec_file), str(toy_inputs), str(tmp_path / "out")]
    torchrun = {"WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(a_free_port())}
    processes = [
        subprocess.Popen(
            command if rank == 0 else ["prlimit", "--fsize=1000", *command],
            env={**os.environ, **torchrun, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(SIZE)
    ]
    try:
        (said, heard), (_, complaint) = (process.communicate(timeout=120) for process in processes)
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [ExitStatus.FAILED] * SIZE
    last = decode(said.splitlines()[-1])
    assert isinstance(last, Failed)
    assert "File too large" in last.message
    assert b"another process of this run failed" in heard
    assert b"File too large" in complaint


def test_a_process_started_alone_is_alone() -> None:
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}):
        with joined_ranks(environment, CPU.device) as ranks:
            assert isinstance(ranks, Single)
