"""What the program promises its supervisor: wire lines only, an honest exit status, and to die with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bitsmith_core.bundle import MANIFEST, Manifest
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import ExitStatus, Failed, FailureClass, Finished, Line, Stage, StageStarted, decode


def start(spec: Path, inputs: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bitsmith_engine", str(spec), str(inputs), str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finish(process: subprocess.Popen[bytes]) -> tuple[int, list[Line], str]:
    """(exit status, wire lines, stderr); stdin stays open until the process is gone."""
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [decode(line) for line in process.stdout]
    errors = process.stderr.read().decode()
    status = process.wait(timeout=60)
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    return status, lines, errors


@pytest.fixture
def spec_file(tmp_path: Path, spec: JobSpec) -> Path:
    path = tmp_path / "spec.json"
    path.write_text(spec.model_dump_json())
    return path


def test_a_job_ends_with_its_manifest(spec_file: Path, toy_inputs: Path, tmp_path: Path) -> None:
    status, lines, errors = finish(start(spec_file, toy_inputs, tmp_path / "out"))
    assert status == ExitStatus.SUCCEEDED, errors
    manifest = Manifest.model_validate_json((tmp_path / "out" / "artifacts" / MANIFEST).read_bytes())
    assert lines[-1] == Finished(manifest_sha256=manifest.sha256)


def test_a_stop_request_is_obeyed_with_finished_stages_intact(
    spec_file: Path, toy_inputs: Path, tmp_path: Path
) -> None:
    data = json.loads(spec_file.read_text())
    data["method"]["qsft"]["training"] |= {"epochs": 100}  # long enough to be interrupted
    spec_file.write_text(json.dumps(data))
    process = start(spec_file, toy_inputs, tmp_path / "out")
    assert process.stdout is not None
    for line in process.stdout:
        if decode(line) == StageStarted(stage=Stage.TRAINING):
            process.send_signal(signal.SIGTERM)
            break
    status, lines, _ = finish(process)
    assert status == ExitStatus.STOPPED
    last = lines[-1]
    assert isinstance(last, Failed)
    assert last.failure == FailureClass.YIELD
    assert (tmp_path / "out" / "stages" / Stage.QUANTIZING / "stage.json").is_file()
    assert not (tmp_path / "out" / "stages" / Stage.TRAINING).exists()


def test_the_engine_dies_with_its_supervisor(spec_file: Path, toy_inputs: Path, tmp_path: Path) -> None:
    process = start(spec_file, toy_inputs, tmp_path / "out")
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read()
    process.stderr.read()
    assert process.wait(timeout=60) == ExitStatus.ORPHANED
    process.stdout.close()
    process.stderr.close()


def test_a_broken_spec_is_a_configuration_failure(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text('{"model": "nothing"}')
    status, lines, _ = finish(start(spec, tmp_path, tmp_path / "out"))
    assert status == ExitStatus.FAILED
    (only,) = lines
    assert isinstance(only, Failed)
    assert (only.failure, only.code) == (FailureClass.CONFIG, "invalid_spec")


def test_help_explains_the_arguments() -> None:
    result = subprocess.run([sys.executable, "-m", "bitsmith_engine", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "INPUTS" in result.stdout


def test_every_failure_of_the_engine_has_a_class_and_a_code_of_its_own() -> None:
    from bitsmith_engine.errors import EngineError, ToldBy, failed_line

    told = Failed(failure=FailureClass.RESOURCE, code="out_of_space", message="m")
    assert failed_line(ToldBy(told)) == told  # another process' failure keeps its own
    leaves = [leaf for leaf in EngineError.__subclasses__() if leaf is not ToldBy]
    assert len({leaf.code for leaf in leaves}) == len(leaves) > 0
    assert all(leaf.failure is not FailureClass.UNKNOWN for leaf in leaves)
