"""What training promises: it learns, the same however a batch is cut, and never goes on from a broken loss."""

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from bitsmith_core.bundle import TrainingFacts
from bitsmith_core.spec import Training
from bitsmith_engine.data.examples import load_examples
from bitsmith_engine.errors import Diverged
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.initial import quantize_layers
from bitsmith_engine.quant.storage import Parameters
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.train.loop import plan_steps, train

RUNTIME = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)
BFLOAT16 = Runtime(device=torch.device("cpu"), compute_dtype=torch.bfloat16)  # as on a GPU


class Notes(Silent):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def note(self, level: Literal["info", "warn"], message: str) -> None:
        self.messages.append(message)


def train_toy(
    inputs: Path, observer: Notes, *, break_it: bool = False, runtime: Runtime = RUNTIME, **settings: Any
) -> tuple[TrainingFacts, Parameters]:
    base = open_base(inputs / "model")
    examples = load_examples(inputs / "training.jsonl", base.tokenizer, max_length=64, observer=observer)
    optimizer_settings = {"code_learning_rate": 2e-3, "flip_budget": 0.05, "accumulator": "float32"}
    optimizer_settings |= settings.pop("optimizer", {})
    training = Training.model_validate({"batch_size": 8, "optimizer": optimizer_settings} | settings)

    def read(name: str) -> torch.Tensor:
        return base.weights.get(f"{name}.weight")

    bits = {name: 4 for unit in units(base.config) for name in unit.layers}
    parameters = quantize_layers(bits, read, runtime.device, observer, clip_search=True)
    plan = plan_steps(examples, training, seed=0)
    schedule = Schedule(steps=len(plan), warmup_fraction=training.warmup_fraction)
    optimizer = DiodeMix(parameters, training.optimizer, schedule, seed=0, float_weight=read)
    model = load_quantized(base, parameters, runtime)
    if break_it:
        model.model.norm.weight.data.fill_(math.nan)
    return train(model, optimizer, examples, plan, training, runtime, observer), parameters


@pytest.mark.parametrize("runtime", [RUNTIME, BFLOAT16], ids=str)
def test_the_loss_falls_and_codes_move(toy_inputs: Path, runtime: Runtime) -> None:
    facts, _ = train_toy(toy_inputs, Notes(), runtime=runtime, epochs=4, optimizer={"scale_learning_rate": 2e-2})
    assert facts.last_loss < facts.first_loss - 0.5
    assert 0 < facts.flips <= facts.flip_budget * facts.flips / facts.flip_rate
    assert (facts.steps, facts.examples) == (24, 4 * 48)


def test_micro_batches_train_the_same_weights_as_the_whole_batch(toy_inputs: Path) -> None:
    whole_facts, whole = train_toy(toy_inputs, Notes())
    split_facts, split = train_toy(toy_inputs, Notes(), micro_batch_size=3)
    assert split_facts.first_loss == pytest.approx(whole_facts.first_loss, rel=1e-4)
    assert split_facts.last_loss == pytest.approx(whole_facts.last_loss, rel=1e-2)
    codes = sum(parameter.codes_NK.numel() for parameter in whole.values())
    differing = sum(int((whole[name].codes_NK != split[name].codes_NK).sum()) for name in whole)
    # Sums in another order differ in the last bit, and a code on the edge of its cell may fall to either side.
    assert differing / codes < 1e-3


def test_a_loss_that_is_not_finite_stops_the_run(toy_inputs: Path) -> None:
    with pytest.raises(Diverged, match="at step 1"):
        train_toy(toy_inputs, Notes(), break_it=True)


def test_a_run_without_flips_says_so(toy_inputs: Path) -> None:
    notes = Notes()
    facts, _ = train_toy(toy_inputs, notes, optimizer={"code_learning_rate": 1e-12})
    assert facts.flips == 0
    assert any("no code moved" in message for message in notes.messages)


def test_a_run_that_must_not_flip_says_nothing(toy_inputs: Path) -> None:
    notes = Notes()
    facts, _ = train_toy(toy_inputs, notes, max_steps=2, optimizer={"mode": "scales_only"})
    assert (facts.flips, facts.flip_budget, facts.steps) == (0, 0.0, 2)
    assert not notes.messages
