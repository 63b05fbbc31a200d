"""What the adapter methods promise: gradients reach every adapter, and what is saved is what was trained."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bitsmith_core.spec import EarlyStopping, LoraTraining
from bitsmith_engine.data.batching import epoch_order
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.errors import BadData, BadModel, Diverged, Stopped
from bitsmith_engine.evaluate.perplexity import answer_losses
from bitsmith_engine.models.opening import Base, load_float, open_base
from bitsmith_engine.ports import Silent
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.train import adapters
from bitsmith_engine.train.adapters import AdapterResult, train_adapter
from bitsmith_engine.train.checkpoint import OnCheckpoint
from torch import Tensor
from toy_training import never_learned

pytestmark = [  # third parties' own
    pytest.mark.filterwarnings(
        "ignore:.is_gradient_checkpointing:FutureWarning"
    ),  # peft asks transformers by an old name
]

RUNTIME = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)
SETTINGS = LoraTraining(batch_size=8, rank=4, alpha=8.0, learning_rate=5e-3)
both = pytest.mark.parametrize("nf4", [False, True], ids=["lora", "qlora"])


class Listener(Silent):
    def __init__(self, on_progress: Callable[[], None] = lambda: None) -> None:
        self.on_progress = on_progress
        self.losses: list[float] = []
        self.messages: list[str] = []

    def progress(self, done: int, total: int, metrics: Any = None) -> None:
        self.losses.append(metrics["loss"])
        self.on_progress()

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def base(toy_inputs: Path) -> Base:
    return open_base(toy_inputs / "model")


@pytest.fixture(scope="module")
def examples(toy_inputs: Path, base: Base) -> list[Example]:
    return load_examples(toy_inputs / "training.jsonl", base.tokenizer, max_length=64, observer=Silent())


@pytest.fixture(scope="module")
def held_out(toy_inputs: Path, base: Base) -> list[Example]:
    return load_examples(toy_inputs / "validation.jsonl", base.tokenizer, max_length=64, observer=Silent())


def run(
    base: Base,
    examples: list[Example],
    *,
    nf4: bool,
    settings: LoraTraining = SETTINGS,
    epochs: int = 1,
    observer: Listener | None = None,
    held_out: list[Example] | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
) -> AdapterResult:
    lengths = [len(example.ids) for example in examples]
    plan = [batch for epoch in range(epochs) for batch in epoch_order(lengths, 8, seed=0, epoch=epoch)]
    return train_adapter(
        base, settings, nf4=nf4, examples=examples, plan=plan, runtime=RUNTIME, observer=observer or Listener(),
        seed=seed, held_out=held_out or [], checkpoints=checkpoints, on_checkpoint=on_checkpoint,
    )  # fmt: skip


def answer_loss(model: Any, examples: list[Example]) -> float:
    losses = [loss for batch in answer_losses(model, examples, RUNTIME) for loss in batch.values()]
    return sum(loss.nll for loss in losses) / sum(loss.tokens for loss in losses)


def factors(result: AdapterResult) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in result.model.named_parameters() if "lora_" in name}


@both
def test_the_loss_falls_and_the_facts_say_so(base: Base, examples: list[Example], nf4: bool) -> None:
    result = run(base, examples, nf4=nf4, epochs=6)
    facts = result.facts
    assert facts.last_loss < facts.first_loss - 0.5
    assert (facts.optimizer, facts.mode) == ("adamw", "qlora" if nf4 else "lora")
    assert (facts.steps, facts.examples, facts.flips) == (36, 6 * 48, 0)


@both
def test_every_step_moves_every_adapter_even_with_looks_in_between(
    base: Base, examples: list[Example], held_out: list[Example], nf4: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Tensor]] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: Any = None) -> Any:
        seen.append(
            {str(i): p.grad.clone() for i, p in enumerate(self.param_groups[0]["params"]) if p.grad is not None}
        )
        return real(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    stopping = EarlyStopping(every_steps=1, patience=100, examples=4)
    result = run(
        base, examples, nf4=nf4, held_out=held_out, settings=SETTINGS.model_copy(update={"early_stopping": stopping})
    )
    assert len(seen) == 6
    for number, gradients in enumerate(seen):
        assert len(gradients) == len(factors(result)) == 2 * 14  # A and B beside seven linear layers of two decoders
        zero = sum(not bool(gradient.any()) for gradient in gradients.values())
        assert zero == (14 if number == 0 else 0)  # A has no gradient while B is still zero


def test_looks_never_put_nf4_layers_into_evaluation_mode(
    base: Base, examples: list[Example], held_out: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    modes: set[bool] = set()
    real = Linear4bit.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        modes.add(self.training)
        y: Tensor = real(self, x)
        return y

    monkeypatch.setattr(Linear4bit, "forward", forward)
    stopping = EarlyStopping(every_steps=2, patience=100, examples=4)
    run(base, examples, nf4=True, held_out=held_out, settings=SETTINGS.model_copy(update={"early_stopping": stopping}))
    assert modes == {True}


def test_a_gradient_that_does_not_arrive_stops_the_run(
    base: Base, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = adapters.attach_adapter

    def cut(*arguments: Any) -> Any:
        model = real(*arguments)
        # What a repacked layer does: the values are right, the way back is gone.
        model.get_base_model().model.layers[0].register_forward_hook(lambda module, inputs, output: output.detach())
        return model

    monkeypatch.setattr(adapters, "attach_adapter", cut)
    with pytest.raises(BadModel, match="no gradient reached 14 of 28 adapter weights at step 1"):
        run(base, examples, nf4=True)


def test_nf4_costs_little_on_weights_that_fit_it_and_the_rest_stays_exact(base: Base) -> None:
    model, expected = adapters.load_nf4(base, RUNTIME), load_float(base, RUNTIME)
    assert torch.equal(model.model.norm.weight, expected.model.norm.weight)
    identity_KK = torch.eye(64)
    for name in adapters.linear_names(base)[:3]:
        w_NK = model.get_submodule(name)(identity_KK).T
        error = (w_NK - expected.get_submodule(name).weight).norm() / expected.get_submodule(name).weight.norm()
        assert 0.02 < error < 0.15  # NF4 on normal weights: about 0.09


@both
def test_a_saved_adapter_is_the_trained_one(base: Base, examples: list[Example], nf4: bool, tmp_path: Path) -> None:
    result = run(base, examples, nf4=nf4, epochs=2)
    adapters.save_adapter(result, tmp_path)
    loaded = adapters.load_for_evaluation(base, tmp_path, nf4=nf4, runtime=RUNTIME)
    trained = answer_loss(result.model.get_base_model(), examples)
    assert answer_loss(loaded, examples) == pytest.approx(trained, rel=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert "/" not in (tmp_path / "adapter_config.json").read_text()  # no path of this machine


def test_merging_equals_running_the_adapter(base: Base, examples: list[Example], tmp_path: Path) -> None:
    result = run(base, examples, nf4=False, epochs=2)
    adapters.save_adapter(result, tmp_path)
    merged = dict(adapters.merged_tensors(base, tmp_path, dtype=torch.float32))
    model = load_float(base, RUNTIME)
    missing, unexpected = model.load_state_dict(merged, strict=False)
    assert (set(missing), unexpected) == ({"lm_head.weight"}, [])  # tied to the embeddings
    trained = answer_loss(result.model.get_base_model(), examples)
    assert answer_loss(model, examples) == pytest.approx(trained, rel=1e-4)
    assert {tensor.dtype for _, tensor in adapters.merged_tensors(base, tmp_path)} == {torch.bfloat16}


def test_an_adapter_of_another_shape_is_refused(base: Base, examples: list[Example], tmp_path: Path) -> None:
    result = run(base, examples, nf4=False)
    adapters.save_adapter(result, tmp_path)
    config = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('"r": 4', '"r": 5'))
    with pytest.raises(BadModel, match="does not fit this base"):
        adapters.load_for_evaluation(base, tmp_path, nf4=False, runtime=RUNTIME)


@both
def test_equal_seeds_give_equal_bits(base: Base, examples: list[Example], nf4: bool) -> None:
    settings = SETTINGS.model_copy(update={"dropout": 0.2})
    one, two, other = (factors(run(base, examples, nf4=nf4, settings=settings, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


class StopsAt(Listener):
    """Asked to stop after so many steps."""

    def __init__(self, step: int) -> None:
        super().__init__(self._stop)
        self.step = step

    def _stop(self) -> None:
        if len(self.losses) == self.step:
            raise Stopped("asked to")


@both
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(
    base: Base, examples: list[Example], held_out: list[Example], tmp_path: Path, nf4: bool, stop_after: int
) -> None:
    stopping = EarlyStopping(every_steps=2, patience=100, examples=4)
    settings = SETTINGS.model_copy(update={"dropout": 0.2, "checkpoint_steps": 2, "early_stopping": stopping})
    undisturbed = run(base, examples, nf4=nf4, settings=settings, held_out=held_out)
    saved: list[int] = []

    def go(observer: Listener) -> AdapterResult:
        return run(
            base, examples, nf4=nf4, settings=settings, held_out=held_out, observer=observer, checkpoints=tmp_path,
            on_checkpoint=lambda step, folder, metrics: saved.append(step),
        )  # fmt: skip

    with pytest.raises(Stopped):
        go(StopsAt(stop_after))
    again = Listener()
    found = go(again)
    assert saved == {1: [1, 2, 4, 6], 4: [2, 4, 6]}[stop_after]
    assert again.messages == [f"training continues after step {stop_after} of 6"]
    assert len(again.losses) == 6 - stop_after
    assert found.facts == undisturbed.facts
    left, right = factors(found), factors(undisturbed)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(
    base: Base, examples: list[Example], tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(base, examples, nf4=False, observer=StopsAt(3), checkpoints=tmp_path)
    other = Listener()
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-3})
    run(base, examples, nf4=False, settings=settings, observer=other, checkpoints=tmp_path)
    assert len(other.losses) == 6


def test_training_leaves_the_callers_random_numbers_alone(base: Base, examples: list[Example]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(base, examples, nf4=False)
    assert torch.equal(torch.rand(1), expected)


def test_micro_batches_and_recomputation_change_no_loss(base: Base, examples: list[Example]) -> None:
    whole, split, recomputed = Listener(), Listener(), Listener()
    run(base, examples, nf4=False, observer=whole)
    run(base, examples, nf4=False, observer=split, settings=SETTINGS.model_copy(update={"micro_batch_size": 3}))
    checkpointing = SETTINGS.model_copy(update={"activation_checkpointing": True})
    run(base, examples, nf4=False, observer=recomputed, settings=checkpointing)
    assert split.losses == pytest.approx(whole.losses, rel=1e-4)
    assert recomputed.losses == pytest.approx(whole.losses, rel=1e-6)


def test_early_stopping_keeps_the_best_adapter(base: Base, examples: list[Example]) -> None:
    stopping = EarlyStopping(every_steps=2, patience=2, examples=12)
    settings = SETTINGS.model_copy(update={"warmup_fraction": 0.0, "early_stopping": stopping})
    held_out = [never_learned()]
    listener = Listener()
    result = run(base, examples, nf4=False, settings=settings, epochs=4, observer=listener, held_out=held_out)
    assert result.facts.steps < 24
    assert any("stopped after" in message for message in listener.messages)
    best = float(listener.messages[0].split("below ")[1].split()[0])
    assert answer_loss(result.model.get_base_model(), held_out) == pytest.approx(best, abs=1e-4)


def test_an_empty_plan_is_refused(base: Base) -> None:
    with pytest.raises(BadData, match="nothing to train on"):
        run(base, [], nf4=False)


def test_a_token_without_an_embedding_is_refused(base: Base, examples: list[Example]) -> None:
    with pytest.raises(BadModel, match="tokenizer"):
        run(base, [dataclasses.replace(examples[0], ids=(9999, *examples[0].ids[1:]))], nf4=False)


def test_early_stopping_without_validation_examples_is_refused(base: Base, examples: list[Example]) -> None:
    with pytest.raises(BadData, match="leave early_stopping out"):
        run(base, examples, nf4=False, settings=SETTINGS.model_copy(update={"early_stopping": EarlyStopping()}))


def test_a_loss_that_is_not_finite_stops_the_run(
    base: Base, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(base: Base, runtime: Runtime) -> Any:
        model = load_float(base, runtime)
        model.model.norm.weight.data.fill_(math.nan)
        return model

    monkeypatch.setattr(adapters, "load_float", broken)
    with pytest.raises(Diverged, match="at step 1"):
        run(base, examples, nf4=False)
