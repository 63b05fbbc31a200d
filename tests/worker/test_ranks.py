"""What the processes of one engine are told, and what it means when one of them ends before the others."""

import json
import signal
import sys
from pathlib import Path

import pytest
from bitsmith_core.wire import ExitStatus, Failed, FailureClass, Finished
from bitsmith_worker import machine
from bitsmith_worker.machine import Machine
from bitsmith_worker.ranks import ALONE, Death, Ranks, Share, processes_of
from bitsmith_worker.supervisor import decisive, supervise

from tests.engine.conftest import toy_spec

FINISHED = Finished(manifest_sha256="0" * 64)
FAILED = Failed(failure=FailureClass.DATA, code="empty", message="Line 3 is empty.")
EIGHT = Machine(device="cuda", devices=8, memory_bytes=None)
CPU = Machine(device="cpu", devices=1, memory_bytes=None)


def test_a_job_gets_a_process_for_each_gpu_if_its_training_can_be_shared() -> None:
    spec = toy_spec(resources={"device": "auto"})
    assert processes_of(spec, asked=None, found=EIGHT) == 8
    assert processes_of(spec, asked=None, found=CPU) == 1
    assert processes_of(spec, asked=2, found=CPU) == 2
    assert processes_of(toy_spec(resources={"device": "cpu"}), asked=None, found=EIGHT) == 1
    for method in ("lora", "qlora", "quantize"):
        assert processes_of(toy_spec(method, resources={"device": "auto"}), asked=8, found=EIGHT) == 1


@pytest.mark.parametrize(
    ("shown", "there", "count"),
    [
        (None, 8, 8), ("", 8, 0), ("-1", 8, 0), ("0", 8, 1), ("3,1", 8, 2), ("0,-1,2", 8, 1), ("0,9", 8, 1),
        ("GPU-8932f937-d72c", 8, 1), ("MIG-0d9ae13e,MIG-77a1", 1, 1), (None, 0, 0), ("0", 0, 0),
    ],
)  # fmt: skip
def test_gpus_that_cuda_is_told_to_hide_do_not_count(shown: str | None, there: int, count: int) -> None:
    assert machine.visible(shown, there) == count


def test_every_rank_is_told_what_torchrun_tells() -> None:
    share = Share(here=2, first=2, total=4, host="node-0", port=29500, run="a1")
    told = [share.environment(local_rank) for local_rank in range(2)]
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in told] == [("2", "0"), ("3", "1")]
    for one in told:
        assert (one["WORLD_SIZE"], one["LOCAL_WORLD_SIZE"]) == ("4", "2")
        assert (one["MASTER_ADDR"], one["MASTER_PORT"], one["TORCHELASTIC_RUN_ID"]) == ("node-0", "29500", "a1")
    assert ALONE.environment(0) == {}


@pytest.mark.parametrize(
    ("status", "word", "deaths", "expected"),
    [
        (0, FINISHED, [], 0),
        (1, FAILED, [Death(0, 1)], 1),  # rank 0 says why
        (1, FAILED, [Death(1, -9), Death(0, 1)], -9),  # rank 0 fails because rank 1 was killed
        (1, FAILED, [Death(0, 1), Death(1, -9)], -9),  # in whatever order that was seen
        (-9, None, [Death(0, -9), Death(1, 1)], -9),
        (-11, None, [Death(1, 1), Death(0, -11)], -11),  # rank 1 fails because rank 0 broke
        (1, FAILED, [Death(1, 1), Death(0, 1)], 1),  # rank 0 heard rank 1's reason
        (-9, None, [Death(1, 1)], 1),  # we ended rank 0, which heard nothing
        (-9, None, [Death(2, -11), Death(1, -9)], -11),  # the first one
        (0, FINISHED, [Death(1, -11)], 0),  # the result is there
    ],
)
def test_the_rank_that_took_the_others_along_decides(
    status: int, word: Finished | Failed | None, deaths: list[Death], expected: int
) -> None:
    assert decisive(status, word, deaths) == expected


RANK = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
print("hello from", rank, file=sys.stderr, flush=True)
if rank == 1:
    {act}
time.sleep(60)
"""


def run(tmp_path: Path, act: str) -> tuple[Finished | Failed, str]:
    log = tmp_path / "engine.log"
    ended = supervise(
        [sys.executable, "-c", RANK.format(act=act)],
        folder=tmp_path,
        log_file=log,
        on_line=lambda line: None,
        ending=lambda: None,
        stop_within_s=lambda why: 1.0,
        share=Share(here=3, total=3),
    )
    assert isinstance(ended.outcome, Finished | Failed)
    return ended.outcome, log.read_text()


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", {"engine_killed", "out_of_memory_or_killed"}),
        ("os.kill(os.getpid(), signal.SIGSEGV)", {"engine_crashed"}),
        ("sys.exit(1)", {"engine_crashed"}),
    ],
)
def test_the_death_of_one_rank_ends_all(tmp_path: Path, act: str, code: set[str]) -> None:
    outcome, said = run(tmp_path, act)
    assert isinstance(outcome, Failed)
    assert outcome.code in code
    assert sorted(line for line in said.splitlines() if "hello" in line) == [
        "[rank 1] hello from 1", "[rank 2] hello from 2", "hello from 0",
    ]  # fmt: skip


def close(ranks: Ranks) -> None:
    ranks.close()
    assert ranks.first.stdout is not None
    ranks.first.stdout.close()  # whoever reads it closes it


def test_ranks_see_each_other_and_none_of_our_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_DATABASE_URL", "secret")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tell = "import json, os, sys; json.dump(dict(os.environ), open(os.environ['RANK'], 'w'))"
    ranks = Ranks([sys.executable, "-c", tell], Share(here=2, total=2), folder=tmp_path, log_file=tmp_path / "log")
    for rank in range(2):
        ranks._processes[rank].wait(20)
    close(ranks)
    told = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert told[0]["MASTER_PORT"] == told[1]["MASTER_PORT"] != "0"
    assert int(told[0]["OMP_NUM_THREADS"]) == max(1, machine.cores() // 2)
    assert not any("secret" in one.values() for one in told)
    assert ranks.deaths() == []
    assert not ranks.are_running()


def test_stopped_ranks_are_not_dead(tmp_path: Path) -> None:
    stop = f"import sys; sys.exit({int(ExitStatus.STOPPED)})"
    ranks = Ranks([sys.executable, "-c", stop], Share(here=2, total=2), folder=tmp_path, log_file=tmp_path / "log")
    for rank in range(2):
        assert ranks._processes[rank].wait(20) == ExitStatus.STOPPED
    assert ranks.deaths() == []
    close(ranks)
    assert signal.SIGKILL not in [-process.returncode for process in ranks._processes]
