"""What checkpoints promise: a run that ended anywhere goes on as if nothing had happened, bit for bit."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_engine.errors import Diverged, Stopped
from toy_training import Listener, Toy, never_learned, toy

STEPS = 5
KINDS: dict[str, dict[str, Any]] = {
    "packed": {},
    "padded, in micro-batches": {"packing": False, "micro_batch_size": 3},
    "packed, in micro-batches": {"micro_batch_size": 3, "optimizer": {"accumulator": "int8"}},
    "with momentum and reviews": {
        "optimizer": {"momentum": "low_rank", "gate_sigma": 0.1, "trust_every": 2, "accumulator": "int4"}
    },
    "stopping early": {"early_stopping": {"every_steps": 1, "patience": 3}},
}


class Killed(Exception):
    """The process is gone: nobody had time to write anything."""


def ending_after(step: int, error: type[Exception]) -> Listener:
    def end(done: int) -> None:
        if done == step:
            raise error("over")

    return Listener(end)


def run_of(inputs: Path, **settings: Any) -> Toy:
    run = toy(inputs, **({"max_steps": STEPS, "checkpoint_steps": 2} | settings))
    if "early_stopping" in settings:
        run.held_out[:] = [never_learned()]
    return run


def assert_equal(one: Toy, other: Toy) -> None:
    other_state = other.state()
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other_state[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_continues_bit_for_bit(toy_inputs: Path, tmp_path: Path, kind: str) -> None:
    straight = run_of(toy_inputs, **KINDS[kind])
    facts = straight.train(Listener(), train_norms=True)
    for step in (1, 3):
        with pytest.raises(Stopped):
            run_of(toy_inputs, **KINDS[kind]).train(ending_after(step, Stopped), train_norms=True, checkpoints=tmp_path)
    resumed, listener = run_of(toy_inputs, **KINDS[kind]), Listener()
    assert resumed.train(listener, train_norms=True, checkpoints=tmp_path) == facts
    assert "training continues after step 3 of 5" in listener.messages
    assert_equal(resumed, straight)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_killed_run_continues_from_its_last_checkpoint_bit_for_bit(
    toy_inputs: Path, tmp_path: Path, step: int
) -> None:
    straight = run_of(toy_inputs)
    facts = straight.train(Listener())
    with pytest.raises(Killed):
        run_of(toy_inputs).train(ending_after(step, Killed), checkpoints=tmp_path)
    resumed, listener = run_of(toy_inputs), Listener()
    assert resumed.train(listener, checkpoints=tmp_path) == facts
    written = (step - 1) // 2 * 2  # a kill after step 2 comes before its checkpoint
    assert f"training continues after step {written} of {STEPS}" in listener.messages
    assert_equal(resumed, straight)


@pytest.mark.parametrize("damage", ["weights.safetensors", "rank-0.safetensors", "state.json"])
def test_a_torn_checkpoint_is_ignored_for_the_one_before(toy_inputs: Path, tmp_path: Path, damage: str) -> None:
    with pytest.raises(Killed):
        run_of(toy_inputs).train(ending_after(3, Killed), checkpoints=tmp_path / "one")
    shutil.copytree(tmp_path / "one" / "step-00000002", tmp_path / "older")
    straight = run_of(toy_inputs)
    facts = straight.train(Listener(), checkpoints=tmp_path / "one")
    shutil.copytree(tmp_path / "older", tmp_path / "one" / "step-00000002")

    newest = tmp_path / "one" / "step-00000004"
    content = (newest / damage).read_bytes()
    (newest / damage).write_bytes(content[: len(content) // 2])
    resumed, listener = run_of(toy_inputs), Listener()
    assert resumed.train(listener, checkpoints=tmp_path / "one") == facts
    assert "training continues after step 2 of 5" in listener.messages
    assert_equal(resumed, straight)


def test_only_the_newest_checkpoint_stays(toy_inputs: Path, tmp_path: Path) -> None:
    run_of(toy_inputs).train(Listener(), checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_checkpoint_of_other_settings_is_not_continued(toy_inputs: Path, tmp_path: Path) -> None:
    run_of(toy_inputs).train(Listener(), checkpoints=tmp_path)
    listener = Listener()
    other = run_of(toy_inputs, optimizer={"scale_learning_rate": 1e-3})
    assert other.train(listener, checkpoints=tmp_path).steps == STEPS
    assert not any("continues" in message for message in listener.messages)


def breaking(run: Toy, times: int, *, after: int) -> Listener:
    """Makes the model's last norm NaN after that step, the first few times it gets there."""
    left = [times]

    def spoil(done: int) -> None:
        if done == after and left[0]:
            left[0] -= 1
            run.model.model.norm.weight.data.fill_(math.nan)

    return Listener(spoil)


def test_a_broken_loss_takes_the_run_back_and_halves_the_rates(toy_inputs: Path, tmp_path: Path) -> None:
    run = run_of(toy_inputs)
    listener = breaking(run, 1, after=3)
    facts = run.train(listener, train_norms=True, checkpoints=tmp_path)
    assert facts.steps == STEPS
    assert any("goes on from step 2 with rates times 0.5" in message for message in listener.messages)
    rates = [metrics["lr"] for metrics in listener.metrics]
    assert len(rates) == STEPS + 1  # step 3 twice
    assert rates[3] == rates[2] / 2
    assert all(tensor.isfinite().all() for tensor in run.state().values())


def test_weights_that_are_broken_are_not_kept_as_a_checkpoint(toy_inputs: Path, tmp_path: Path) -> None:
    run = run_of(toy_inputs)
    spoilt: list[int] = []

    def spoil(done: int) -> None:
        if done == 2 and not spoilt:
            spoilt.append(done)
            run.parameters["model.layers.0.mlp.up_proj"].scale_NG[0] = math.nan

    listener = Listener(spoil)
    assert run.train(listener, checkpoints=tmp_path).steps == STEPS
    assert any("goes on from step 0" in message for message in listener.messages)


def test_a_loss_that_stays_broken_ends_the_run(toy_inputs: Path, tmp_path: Path) -> None:
    run = run_of(toy_inputs, max_rollbacks=2)
    listener = breaking(run, 99, after=1)
    with pytest.raises(Diverged, match="at step 2 after 2 returns to a checkpoint at half the rates; lower"):
        run.train(listener, train_norms=True, checkpoints=tmp_path)
    assert [metrics["lr"] for metrics in listener.metrics] == [
        listener.metrics[0]["lr"] * factor for factor in (1.0, 0.5, 0.25)
    ]
