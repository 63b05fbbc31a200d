"""`bitsmith up`: the platform starts, heals, stops, and keeps its data, also after kill -9."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from bitsmith_client.lab import programs, servers
from bitsmith_client.lab.stack import STOP_ORDER, Stack, restart_delay_s
from bitsmith_client.lab.state import AlreadyRunning, LabState
from bitsmith_client.sdk import Bitsmith

READY_WITHIN_S = 60.0


def wait_for(condition: Callable[[], bool], what: str, within_s: float = READY_WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:.0f} s"
        time.sleep(0.05)


class Up:
    """`bitsmith up` as a person runs it."""

    def __init__(self, folder: Path) -> None:
        self.state = LabState(folder)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bitsmith_client", "up", "--state", folder, "--port", str(servers.free_port())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As a script's background job has it: Ctrl-C must end the platform all the same.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )

    def wait_ready(self) -> str:
        """Everything printed until the platform runs."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if "Ctrl-C stops it" in line:
                return said
        raise AssertionError(f"up ended with {self.process.wait()}:\n{said}")

    def client(self) -> Bitsmith:
        config = self.state.load()
        assert config is not None
        return Bitsmith(config.url, config.api_key)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path / "state"))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGTERM)
        config = each.state.load()
        if config is not None:
            shutil.rmtree(config.postgres_folder, ignore_errors=True)  # as root it lies outside of tmp_path


def test_data_outlive_a_stop_and_a_kill(up: Callable[[], Up], training_file: Path) -> None:
    first = up()
    said = first.wait_ready()
    assert "http://127.0.0.1:" in said
    assert first.state.load() is not None
    with first.client() as bitsmith:
        uploaded = bitsmith.files.upload(training_file)
    family = first.children()
    assert len(family) >= len(STOP_ORDER)
    assert first.end(signal.SIGTERM) == 0
    assert [process for process in family if process.is_running()] == []

    second = up()
    second.wait_ready()
    with second.client() as bitsmith:
        assert bitsmith.files.list() == [uploaded]
    family = second.children()
    second.end(signal.SIGKILL)
    assert [process for process in family if process.is_running()]  # orphans, for the next start to end

    third = up()
    third.wait_ready()
    wait_for(lambda: not any(_lives(process) for process in family), "the end of what the killed lab left")
    with third.client() as bitsmith:
        assert bitsmith.files.list() == [uploaded]
    assert third.end(signal.SIGINT) == 0


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_second_lab_on_the_same_folder_is_refused(lab: Stack) -> None:
    with pytest.raises(AlreadyRunning, match="a lab runs on"), Stack(LabState(lab.state.folder)):
        pass
    refused = subprocess.run(
        [sys.executable, "-m", "bitsmith_client", "up", "--state", lab.state.folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: a lab runs on")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("name", ["worker", "api", "scheduler", "valkey", "postgres"])
def test_a_killed_process_is_started_again(lab: Stack, bitsmith: Bitsmith, name: str) -> None:
    before = lab.pid(name)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: lab.pid(name) not in (None, before), f"a new {name}")
    wait_for(lambda: bitsmith.is_ready() and programs.live_workers(lab.config) == 1, "a platform that is ready again")
    assert f"{name} ended with status -9" in (lab.state.logs / "lab.log").read_text()


def test_a_process_that_keeps_dying_is_started_less_and_less_often() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(1, 12)]
    assert delays == sorted(delays)
    assert delays[0] <= 1
    assert delays[-1] == 30


def test_a_port_that_is_taken_does_not_keep_the_lab_from_starting(lab: Stack) -> None:
    again = lab.config.with_free_ports()  # every port of this one is taken: by itself
    ports = [(again.api_port, lab.config.api_port), (again.s3_port, lab.config.s3_port)]
    assert all(new != old for new, old in ports)


def test_ctrl_c_while_starting_leaves_nothing_running(up: Callable[[], Up]) -> None:
    started = up()
    pid_files = started.state.logs
    wait_for(lambda: (pid_files / "valkey.pid").exists(), "the first server")
    family = started.children()
    assert started.end(signal.SIGINT) == 0
    assert not any(_lives(process) for process in family)


def test_metrics_say_how_many_workers_live() -> None:
    text = "# HELP bitsmith_workers_live Workers.\nbitsmith_workers_live_other 9.0\nbitsmith_workers_live 2.0\n"
    assert programs.workers_in(text) == 2
    assert programs.workers_in("") == 0
