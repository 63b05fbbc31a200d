"""What training promises: it learns, the same however a batch is cut, and never goes on from a broken loss."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_engine.data.examples import Example
from bitsmith_engine.errors import BadData, BadModel, Diverged
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.train.loop import plan_steps, train
from toy_training import CPU, Listener, Toy, never_learned, toy

BFLOAT16 = Runtime(device=torch.device("cpu"), compute_dtype=torch.bfloat16)  # as on a GPU


def share_of_codes_that_differ(one: Toy, other: Toy) -> float:
    codes = sum(parameter.codes_NK.numel() for parameter in one.parameters.values())
    pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
    return sum(int((a.codes_NK != b.codes_NK).sum()) for a, b in pairs) / codes


@pytest.mark.parametrize(("runtime", "epochs", "fall"), [(CPU, 4, 0.5), (BFLOAT16, 1, 0.1)], ids=str)
def test_the_loss_falls_and_codes_move(toy_inputs: Path, runtime: Runtime, epochs: int, fall: float) -> None:
    run = toy(toy_inputs, runtime=runtime, epochs=epochs, optimizer={"scale_learning_rate": 2e-2})
    facts = run.train(Listener())
    assert facts.last_loss < facts.first_loss - fall
    assert 0 < facts.flips <= facts.flip_budget * run.optimizer.total_codes
    assert (facts.steps, facts.examples) == (6 * epochs, 48 * epochs)


@pytest.mark.parametrize(
    "cut", [{"micro_batch_size": 3}, {"packing": False}, {"activation_checkpointing": True}], ids=str
)
def test_the_same_weights_come_out_however_a_batch_is_computed(toy_inputs: Path, cut: dict[str, Any]) -> None:
    whole, other = toy(toy_inputs, max_steps=3), toy(toy_inputs, max_steps=3, **cut)
    # One plan for both: rows with padding would otherwise be sorted by length.
    plan = plan_steps(whole.examples, whole.training, seed=0)
    facts = [
        train(run.model, run.optimizer, run.examples, plan, run.training, CPU, Listener()) for run in (whole, other)
    ]
    assert facts[1].first_loss == pytest.approx(facts[0].first_loss, rel=1e-5)
    assert facts[1].last_loss == pytest.approx(facts[0].last_loss, rel=1e-4)
    assert facts[0].flips > 100
    # Sums in another order differ in the last bit, and a code on the edge of its cell may fall to either side.
    assert share_of_codes_that_differ(whole, other) < 1e-3


def test_norms_train_too_when_asked_and_nothing_else_does(toy_inputs: Path) -> None:
    run = toy(toy_inputs, max_steps=3)
    before = run.state()
    run.train(Listener(), train_norms=True)
    changed = {name for name, tensor in run.state().items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if name.endswith(".weight")} == {name for name in before if "norm" in name}
    assert not any(parameter.requires_grad for parameter in run.model.parameters())


def test_each_step_reports_what_it_did(toy_inputs: Path) -> None:
    run, listener = toy(toy_inputs, max_steps=2), Listener()
    facts = run.train(listener)
    names = "loss lr flips flip_rate flip_candidates saturation learned_tokens tokens_per_s seconds peak_memory_bytes"
    assert set(names.split()) <= set(listener.metrics[0])
    assert sum(metrics["learned_tokens"] for metrics in listener.metrics) == facts.tokens
    assert listener.metrics[-1]["flips"] == facts.flips


def test_flips_are_reviewed_as_often_as_asked(toy_inputs: Path) -> None:
    run, listener = toy(toy_inputs, max_steps=6, optimizer={"trust_every": 2}), Listener()
    run.train(listener)
    # Nothing comes after the last step that it could be reviewed on.
    assert ["trust" in metrics for metrics in listener.metrics] == [False, True, False, True, False, False]


def test_a_loss_that_is_not_finite_stops_the_run_and_changes_nothing(toy_inputs: Path) -> None:
    run = toy(toy_inputs)
    run.model.model.norm.weight.data.fill_(math.nan)
    before = run.state()
    with pytest.raises(Diverged, match="at step 1; lower scale_learning_rate"):
        run.train(Listener())
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.state().items() if "norm" not in name)


def test_a_run_without_flips_says_so(toy_inputs: Path) -> None:
    listener = Listener()
    facts = toy(toy_inputs, max_steps=2, optimizer={"code_learning_rate": 1e-12}).train(listener)
    assert facts.flips == 0
    assert any("no code moved in 2 steps" in message for message in listener.messages)


def test_a_run_that_must_not_flip_says_nothing(toy_inputs: Path) -> None:
    listener = Listener()
    facts = toy(toy_inputs, max_steps=2, optimizer={"mode": "scales_only"}).train(listener)
    assert (facts.flips, facts.flip_budget, facts.steps) == (0, 0.0, 2)
    assert not listener.messages


def test_training_stops_early_and_keeps_the_best_weights(toy_inputs: Path) -> None:
    run = toy(toy_inputs, early_stopping={"every_steps": 1, "patience": 2}, optimizer={"scale_learning_rate": 1e-1})
    run.held_out[:] = [never_learned()]
    states = [run.state()]
    listener = Listener(lambda done: states.append(run.state()))
    facts = run.train(listener)

    looks = [metrics["held_out_loss"] for metrics in listener.metrics]
    best = 1 + looks.index(min(looks))
    assert facts.steps == best + 2 < 6
    assert facts.flips == listener.metrics[best - 1]["flips"]
    assert all(torch.equal(tensor, states[best][name]) for name, tensor in run.state().items())
    assert any(f"kept the weights after step {best} of {facts.steps}" in message for message in listener.messages)


def test_training_that_helps_is_not_stopped(toy_inputs: Path) -> None:
    stopping = {"every_steps": 2, "patience": 1, "examples": 6}
    run, listener = toy(toy_inputs, early_stopping=stopping), Listener()
    assert run.train(listener).steps == 6
    looks = [metrics["held_out_loss"] for metrics in listener.metrics if "held_out_loss" in metrics]
    assert looks == sorted(looks, reverse=True)
    assert len(looks) == 3


def test_a_token_beyond_the_embedding_is_refused_before_anything_runs(toy_inputs: Path) -> None:
    run = toy(toy_inputs)
    run.examples.append(Example((1, 259), (False, True), 1, "x", False))
    with pytest.raises(BadModel, match="token 259, but its weights know only tokens 0 to 258"):
        run.train(Listener())


def test_an_empty_plan_is_refused(toy_inputs: Path) -> None:
    run = toy(toy_inputs)
    with pytest.raises(BadData, match="nothing to train on"):
        train(run.model, run.optimizer, [], [], run.training, CPU, Listener())
