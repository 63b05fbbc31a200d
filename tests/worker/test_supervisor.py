"""What an engine's end means, and what it may see of us."""

import signal

import pytest
from bitsmith_core.engines import engine_environment
from bitsmith_core.wire import ExitStatus, Failed, FailureClass, Finished, Note
from bitsmith_worker.heartbeat import Ending
from bitsmith_worker.supervisor import decode, judge

FINISHED = Finished(manifest_sha256="0" * 64)
FAILED = Failed(failure=FailureClass.DATA, code="empty", message="Line 3 is empty.")


def test_only_a_result_with_a_clean_exit_is_a_success() -> None:
    assert judge(ExitStatus.SUCCEEDED, FINISHED, asked=None, evidence="", memory_ran_out=True) is FINISHED
    assert isinstance(judge(ExitStatus.SUCCEEDED, None, asked=None, evidence="", memory_ran_out=True), Failed)
    assert isinstance(judge(-signal.SIGSEGV, FINISHED, asked=None, evidence="", memory_ran_out=True), Failed)


def test_the_engine_s_own_reason_is_believed() -> None:
    assert judge(ExitStatus.FAILED, FAILED, asked=None, evidence="", memory_ran_out=True) is FAILED
    assert judge(ExitStatus.FAILED, FAILED, asked=Ending.LEAVING, evidence="", memory_ran_out=True) is FAILED


@pytest.mark.parametrize(
    ("status", "failure", "code"),
    [
        (-signal.SIGKILL, FailureClass.RESOURCE, "out_of_memory_or_killed"),
        (-signal.SIGSEGV, FailureClass.UNKNOWN, "engine_crashed"),
        (ExitStatus.FAILED, FailureClass.UNKNOWN, "engine_crashed"),
        (ExitStatus.SUCCEEDED, FailureClass.UNKNOWN, "engine_crashed"),
        (ExitStatus.STOPPED, FailureClass.INFRA, "engine_stopped"),
        (ExitStatus.ORPHANED, FailureClass.UNKNOWN, "engine_crashed"),
        (-64, FailureClass.UNKNOWN, "engine_crashed"),
    ],
)
def test_every_other_end_has_a_class_and_a_code(status: int, failure: FailureClass, code: str) -> None:
    outcome = judge(status, None, asked=None, evidence="the end of the log", memory_ran_out=True)
    assert isinstance(outcome, Failed)
    assert (outcome.failure, outcome.code) == (failure, code)


def test_a_kill_that_was_not_for_memory_is_nobodys_fault() -> None:
    outcome = judge(-signal.SIGKILL, None, asked=None, evidence="", memory_ran_out=False)
    assert isinstance(outcome, Failed)
    assert (outcome.failure, outcome.code) == (FailureClass.INFRA, "engine_killed")


@pytest.mark.parametrize("status", [ExitStatus.STOPPED, -signal.SIGKILL, ExitStatus.SUCCEEDED, -signal.SIGTERM])
def test_an_engine_that_was_asked_to_stop_did_so_however_it_ended(status: int) -> None:
    for asked in Ending:
        assert judge(status, FINISHED, asked=asked, evidence="", memory_ran_out=True) is asked


def test_an_attempt_that_may_not_write_has_no_opinion() -> None:
    assert judge(ExitStatus.FAILED, FAILED, asked=Ending.FENCED, evidence="", memory_ran_out=True) is Ending.FENCED


def test_what_is_no_wire_line_is_nothing() -> None:
    for raw in (b"", b"\n", b"hello", b"\xff\xfe\x00", b'{"type":"unknown"}', b'{"type":"note"}', b"[" * 100_000):
        assert decode(raw) is None
    nul = decode(b'{"type":"note","level":"info","message":"a\\u0000b"}')
    assert nul == Note(level="info", message="ab")


def test_the_engine_gets_no_credentials() -> None:
    ours = {"PATH": "/bin", "BITSMITH_DATABASE_URL": "secret", "BITSMITH_WORKER_NAME": "w", "HF_TOKEN": "secret"}
    seen = engine_environment(ours)
    assert seen["PATH"] == "/bin"
    assert not any(name.startswith("BITSMITH_") for name in seen)
    assert "secret" not in seen.values()
