"""What the processes of one engine are told, and what it means when one of them ends before the others."""

import json
import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import Lease
from bitsmith_core.wire import ExitStatus, Failed, FailureClass, Finished
from bitsmith_worker import machine
from bitsmith_worker.machine import Machine
from bitsmith_worker.ranks import ALONE, Death, Ranks, Share, processes_of, share_of
from bitsmith_worker.settings import GangSettings
from bitsmith_worker.supervisor import decisive, supervise
from pydantic import ValidationError

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


def test_a_node_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    assert not GangSettings().is_helper, "pods of an Indexed Job that nobody called a gang"
    monkeypatch.setenv("BITSMITH_NODES", "4")
    with pytest.raises(ValidationError, match="BITSMITH_LEADER_HOST is needed"):
        GangSettings()
    monkeypatch.setenv("BITSMITH_LEADER_HOST", "node-0")
    assert (GangSettings().is_helper, GangSettings().node_rank) == (True, 2)
    monkeypatch.setenv("BITSMITH_NODE_RANK", "4")
    with pytest.raises(ValidationError, match="BITSMITH_NODE_RANK is 4, but BITSMITH_NODES is 4"):
        GangSettings()


def test_the_ranks_of_all_nodes_are_all_there_once() -> None:
    lease = Lease(job_id=JobId("ftjob-1"), project=DEFAULT_PROJECT, token=uuid4(), attempt=1, worker="gang")
    shares = [
        share_of(toy_spec(), GangSettings(nodes=3, node_rank=rank, leader_host="node-0"), processes=2, lease=lease)
        for rank in range(3)
    ]
    told = [share.environment(local_rank) for share in shares for local_rank in range(2)]
    assert [one["RANK"] for one in told] == ["0", "1", "2", "3", "4", "5"]
    assert {one["WORLD_SIZE"] for one in told} == {"6"}
    assert {one["MASTER_PORT"] for one in told} == {"29500"}
    assert [one["MASTER_ADDR"] for one in told] == ["127.0.0.1"] * 2 + ["node-0"] * 4
    assert {one["TORCHELASTIC_RUN_ID"] for one in told} == {f"ftjob-1-{lease.label}"}
    assert share_of(toy_spec("lora"), GangSettings(nodes=3), processes=1, lease=lease) is ALONE


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
