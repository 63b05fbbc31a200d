"""A child and everything it started ends with us, even when it or we are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from bitsmith_client.lab.child import Child, ChildSpec, StartFailed, end_leftover

# A leader that starts a grandchild which ignores the polite signal, and says who it is.
FAMILY = (
    "import subprocess, sys, time\n"
    "code = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def python(code: str, folder: Path, **spec: float) -> Child:
    log = folder / "child.log"
    return Child(
        ChildSpec(
            name="child",
            command=[sys.executable, "-c", code],
            is_ready=lambda: log.exists() and log.read_text().strip() != "",
            stop_within_s=spec.get("stop_within_s", 5.0),
            ready_within_s=spec.get("ready_within_s", 20.0),
        ),
        folder,
    )


def is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_stopping_ends_the_grandchildren_too(tmp_path: Path) -> None:
    child = python(FAMILY, tmp_path)
    child.start()
    child.wait_ready()
    grandchild = int(child.log.read_text())
    assert is_alive(grandchild)
    child.stop()
    wait_until_gone(grandchild)


def test_a_child_that_is_killed_takes_its_own_with_it_when_it_is_started_again(tmp_path: Path) -> None:
    child = python(FAMILY, tmp_path)
    child.start()
    child.wait_ready()
    grandchild = int(child.log.read_text())
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    while child.is_running():
        time.sleep(0.01)
    child.start()
    wait_until_gone(grandchild)
    child.kill()


def test_what_a_killed_parent_left_is_ended(tmp_path: Path) -> None:
    parent = (
        "import sys, os, signal; from pathlib import Path\n"
        "from bitsmith_client.lab.child import Child, ChildSpec\n"
        "child = Child(ChildSpec(name='child', command=['sleep', '60'], is_ready=lambda: True), Path(sys.argv[1]))\n"
        "child.start(); print(child.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", parent, tmp_path], check=False, capture_output=True)
    left = int(killed.stdout)
    assert is_alive(left)
    end_leftover(tmp_path / "child.pid")
    wait_until_gone(left)


def test_a_stranger_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    created = psutil.Process(stranger.pid).create_time() - 100
    (tmp_path / "child.pid").write_text(
        f'{{"pid": {stranger.pid}, "created": {created}, "stop_signal": 15, "stop_within_s": 1}}'
    )
    end_leftover(tmp_path / "child.pid")
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "12 34.5", '{"pid": 1}'])
def test_a_pid_file_cut_short_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "child.pid").write_text(content)
    end_leftover(tmp_path / "child.pid")
    assert not (tmp_path / "child.pid").exists()


def test_a_child_that_ends_while_starting_is_said_with_its_last_words(tmp_path: Path) -> None:
    child = Child(
        ChildSpec(name="child", command=["sh", "-c", "echo no disk; exit 3"], is_ready=lambda: False), tmp_path
    )
    child.start()
    with pytest.raises(StartFailed, match="ended while starting:\nno disk"):
        child.wait_ready()


def test_a_child_that_never_gets_ready_is_said(tmp_path: Path) -> None:
    child = python("import time; time.sleep(60)", tmp_path, ready_within_s=0.2)
    child.start()
    with pytest.raises(StartFailed, match="not ready within 0 s"):
        child.wait_ready()
    child.stop()


def test_a_lab_is_complete_in_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_DATABASE_URL", "somebody's real database")
    child = python("import os; print('url:', os.environ.get('BITSMITH_DATABASE_URL'))", tmp_path)
    child.start()
    while child.is_running():
        time.sleep(0.01)
    assert child.log.read_text() == "url: None\n"
    child.stop()
