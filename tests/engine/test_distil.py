"""What calibration by distillation promises: a student nearer to its teacher, and the same one after interruptions."""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
import torch
from bitsmith_core.spec import Distillation
from bitsmith_engine.calibrate.blockwise import BlockReport, StudentLayer
from bitsmith_engine.calibrate.distil import distil
from bitsmith_engine.calibrate.snapshots import Snapshots, is_due
from bitsmith_engine.errors import Stopped
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.quant.storage import Parameters, Rest, load_parameters
from torch import Tensor
from toy_calibration import RUNTIME, divergence_from_float, rounded, toy_windows

SETTINGS = Distillation(samples=16, max_length=64, block_epochs=2, end_to_end_epochs=2, teacher_top_k=16)
LAYERS, STEPS = 2, 4  # 16 windows of 64 tokens, 512 tokens a step, 2 epochs


class Watcher:
    """Notes what it is told, and stops the run when asked to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.seen: list[tuple[int, int]] = []
        self.metrics: list[dict[str, float]] = []

    def progress(self, done: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        self.seen.append((done, total))
        self.metrics.append(dict(metrics or {}))
        if done == self.stop_after:
            raise Stopped("asked to")

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        raise AssertionError(f"nothing to note, but: {message}")


def run(
    base: Base,
    folder: Path,
    watcher: Watcher | None = None,
    *,
    high_channels: int = 0,
    seed: int = 0,
    snapshots: Snapshots | None = None,
) -> tuple[Parameters, Rest]:
    return distil(
        base,
        rounded(base, high_channels=high_channels),
        {},
        toy_windows(16),
        SETTINGS,
        RUNTIME,
        watcher or Watcher(),
        seed=seed,
        folder=folder,
        snapshots=snapshots,
    )


def bits_of(result: tuple[Parameters, Rest]) -> dict[str, Tensor]:
    parameters, rest = result
    codes = {f"{name}.codes": p.codes_NK for name, p in parameters.items()}
    return codes | {f"{name}.scales": p.scale_NG for name, p in parameters.items()} | rest


def assert_same_bits(found: tuple[Parameters, Rest], expected: tuple[Parameters, Rest]) -> None:
    left, right = bits_of(found), bits_of(expected)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.fixture(scope="module")
def undisturbed(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parameters, Rest]:
    return run(open_base(toy_model), tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("high_channels", [0, 32])
def test_the_student_comes_nearer_on_windows_it_never_saw(toy_model: Path, tmp_path: Path, high_channels: int) -> None:
    base, unseen_BT = open_base(toy_model), toy_windows(seed=1)
    before = divergence_from_float(base, rounded(base, high_channels=high_channels), {}, unseen_BT)
    after = divergence_from_float(base, *run(base, tmp_path / "run", high_channels=high_channels), unseen_BT)
    assert after < 0.95 * before


def test_every_layer_and_every_step_is_a_boundary(toy_model: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    run(open_base(toy_model), tmp_path / "run", watcher)
    assert watcher.seen == [(done, LAYERS + STEPS) for done in range(1, LAYERS + STEPS + 1)]
    for metrics in watcher.metrics[:LAYERS]:
        assert metrics["block_error"] < metrics["block_error_before"]
    assert all(math.isfinite(metrics["divergence"]) for metrics in watcher.metrics[LAYERS:])


@pytest.mark.parametrize("stop_after", range(1, LAYERS + STEPS + 1))
def test_a_stopped_run_goes_on_to_the_same_bits(
    toy_model: Path, tmp_path: Path, undisturbed: tuple[Parameters, Rest], stop_after: int
) -> None:
    base, folder = open_base(toy_model), tmp_path / "run"
    with pytest.raises(Stopped):
        run(base, folder, Watcher(stop_after))
    again = Watcher()
    assert_same_bits(run(base, folder, again), undisturbed)
    assert [done for done, _ in again.seen] == list(range(stop_after + 1, LAYERS + STEPS + 1))


def test_what_a_killed_run_left_half_written_does_not_matter(
    toy_model: Path, tmp_path: Path, undisturbed: tuple[Parameters, Rest]
) -> None:
    base, folder = open_base(toy_model), tmp_path / "run"
    with pytest.raises(Stopped):
        run(base, folder, Watcher(1))
    for name in ("teacher-2.bin", "student-2.bin", "top-tokens.bin", "rest-log-p.bin"):
        (folder / name).write_bytes(b"half")
    (folder / "blocks" / "1.draft").mkdir()
    (folder / "blocks" / "1.draft" / "codes.safetensors").write_bytes(b"half")
    assert_same_bits(run(base, folder), undisturbed)


@pytest.mark.parametrize("stop_after", range(1, LAYERS + STEPS + 1))
def test_another_machine_goes_on_from_the_newest_snapshot_alone(
    toy_model: Path, tmp_path: Path, undisturbed: tuple[Parameters, Rest], stop_after: int
) -> None:
    base, here, there = open_base(toy_model), tmp_path / "here", tmp_path / "there"
    taken: list[tuple[int, Path]] = []
    with pytest.raises(Stopped):
        run(base, here / "run", Watcher(stop_after), snapshots=Snapshots(here, lambda *found: taken.append(found[:2])))
    assert [done for done, _ in taken] == [1, 2][:stop_after] + ([stop_after] if stop_after > LAYERS else [])
    assert [path.name for path in here.glob("checkpoint-*")] == [taken[-1][1].name]
    shutil.copytree(taken[-1][1], there / taken[-1][1].name)
    shutil.rmtree(here)
    again = Watcher()
    found = run(base, there / "run", again, snapshots=Snapshots(there, lambda *found: None))
    assert_same_bits(found, undisturbed)
    assert [done for done, _ in again.seen] == list(range(stop_after + 1, LAYERS + STEPS + 1))


def test_a_snapshot_stays_as_it_was_while_the_run_goes_on(toy_model: Path, tmp_path: Path) -> None:
    digests: list[dict[str, str]] = []

    def look(done: int, folder: Path, metrics: Mapping[str, float]) -> None:
        held = tmp_path / "held" / str(done)
        for path in folder.rglob("*"):
            if path.is_file():
                (held / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, held / path.relative_to(folder))  # as the worker does
        digests.append(digests_of(held))

    run(open_base(toy_model), tmp_path / "run", snapshots=Snapshots(tmp_path, look))
    assert len(digests) == LAYERS
    assert [digests_of(tmp_path / "held" / str(done)) for done in range(1, LAYERS + 1)] == digests


def digests_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("layers", "expected"), [(2, [1, 2]), (8, list(range(1, 9))), (30, [4, 8, 12, 16, 20, 24, 28, 30])]
)
def test_a_deep_model_has_eight_snapshots_of_its_layers(layers: int, expected: list[int]) -> None:
    assert [done for done in range(1, layers + 1) if is_due(done, layers)] == expected


def test_what_another_run_left_is_not_used(
    toy_model: Path, tmp_path: Path, undisturbed: tuple[Parameters, Rest]
) -> None:
    base = open_base(toy_model)
    with pytest.raises(Stopped):
        run(base, tmp_path / "run", Watcher(1), seed=7)
    assert_same_bits(run(base, tmp_path / "run"), undisturbed)


def test_the_hidden_states_are_gone_when_all_layers_are_fitted(toy_model: Path, tmp_path: Path) -> None:
    run(open_base(toy_model), tmp_path / "run")
    left = [path.name for path in (tmp_path / "run").iterdir()]
    assert not [name for name in left if name.startswith(("teacher", "student"))]


def test_layers_are_fitted_on_the_first_windows_and_the_model_on_all(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(toy_model)
    monkeypatch.setattr("bitsmith_engine.calibrate.windows._LEAST_TOKENS", 8 * 64)
    monkeypatch.setattr("bitsmith_engine.calibrate.windows._TOKENS_PER_FEATURE", 0)

    def fitted(windows: int, name: str, *, end_to_end_epochs: int) -> tuple[Parameters, Rest]:
        settings = SETTINGS.model_copy(update={"end_to_end_epochs": end_to_end_epochs})
        return distil(
            base, rounded(base), {}, toy_windows(16)[:windows], settings, RUNTIME, Watcher(), seed=0,
            folder=tmp_path / name,
        )  # fmt: skip

    assert_same_bits(fitted(16, "all", end_to_end_epochs=0), fitted(8, "first", end_to_end_epochs=0))
    scales, first = (fitted(windows, f"{windows}", end_to_end_epochs=1)[0] for windows in (16, 8))
    assert any(not torch.equal(scales[name].scale_NG, first[name].scale_NG) for name in scales)


def test_floats_that_the_start_changed_are_kept_and_those_trained_are_16_bit(toy_model: Path, tmp_path: Path) -> None:
    base = open_base(toy_model)
    name = "model.layers.1.input_layernorm.weight"
    start = {name: torch.full((64,), 0.75)}
    settings = SETTINGS.model_copy(update={"block_epochs": 0, "end_to_end_epochs": 0})
    _, rest = distil(
        base, rounded(base), start, toy_windows(16), settings, RUNTIME, Watcher(), seed=0, folder=tmp_path / "run"
    )
    assert rest.keys() == start.keys()
    assert torch.equal(rest[name].float(), start[name])
    _, trained = run(base, tmp_path / "other")
    assert {name.rsplit(".", 2)[-2] for name in trained} == {"input_layernorm", "post_attention_layernorm", "norm"}
    assert all(tensor.dtype == torch.bfloat16 for tensor in trained.values())


class Listener(Watcher):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[str, str]] = []

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self.messages.append((level, message))


def judged(base: Base, folder: Path, listener: Listener) -> tuple[Parameters, Rest]:
    return distil(base, rounded(base), {}, toy_windows(40), SETTINGS, RUNTIME, listener, seed=0, folder=folder)


def test_what_is_kept_is_the_nearest_on_windows_that_were_not_fitted(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, whole = open_base(toy_model), Listener()
    judged(base, tmp_path / "whole", whole)
    assert [level for level, _ in whole.messages] == ["info"]
    assert "on 2 windows not fitted: start" in whole.messages[0][1]

    monkeypatch.setattr("bitsmith_engine.calibrate.end_to_end.FLOAT_RATE", 10.0)  # destroys the norms
    parameters, _ = judged(base, tmp_path / "spoilt", Listener())
    blocks: Parameters = {}
    for block in sorted((tmp_path / "spoilt" / "blocks").iterdir()):
        blocks |= load_parameters(block, RUNTIME.device)
    assert all(torch.equal(parameters[name].codes_NK, blocks[name].codes_NK) for name in blocks)
    assert not all(torch.equal(parameters[name].codes_NK, first.codes_NK) for name, first in rounded(base).items())


def test_a_calibration_that_only_hurts_leaves_the_first_codes(
    toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = open_base(toy_model)
    monkeypatch.setattr("bitsmith_engine.calibrate.distil.fit_block", spoil)
    monkeypatch.setattr("bitsmith_engine.calibrate.end_to_end.FLOAT_RATE", 10.0)
    listener = Listener()
    parameters, rest = judged(base, tmp_path, listener)
    assert all(torch.equal(parameters[name].codes_NK, first.codes_NK) for name, first in rounded(base).items())
    assert rest == {}
    assert [level for level, _ in listener.messages] == ["info", "warn"]


def spoil(blocks: Blocks, student: StudentLayer, *streams: object, **settings: object) -> BlockReport:
    for weight in student.weights:
        top_code = weight.parameter.scheme.top_code
        torch.nn.init.uniform_(weight.level_NK, 0, top_code, generator=torch.Generator().manual_seed(0))
    return BlockReport(0.0, 0.0, 0.0)
