"""What the torch form of DiodeMix promises: any loop that calls backward and step trains exactly what ours would."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from bitsmith_core.spec import DiodeMix as Settings
from bitsmith_engine.calibrate.start import round_base
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.errors import BadModel
from bitsmith_engine.models.opening import Base, open_base
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.nn.swap import attach_sink, quant_linears
from bitsmith_engine.optim.diodemix import DiodeMix
from bitsmith_engine.optim.hf import HFDiodeMix, SaveCodes, lr_scheduler
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.storage import Parameters, load_parameters
from bitsmith_engine.runtime import Runtime
from torch import Tensor

pytestmark = [  # third parties' own
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(accelerate|datasets|multiprocess|trl|torch|dill).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(accelerate|datasets|trl|transformers).*"),
]

RUNTIME = Runtime(device=torch.device("cpu"), compute_dtype=torch.float32)
RATE = 2.0**-6  # a power of two, so that lr / initial lr gives the schedule's factor back to the last bit
WIDTH = 48  # tokens per row


class Setting(NamedTuple):
    model: Any
    parameters: Parameters
    optimizer: HFDiodeMix


@pytest.fixture(scope="module")
def base(toy_inputs: Path) -> Base:
    return open_base(toy_inputs / "model")


@pytest.fixture(scope="module")
def examples(toy_inputs: Path, base: Base) -> list[Example]:
    return load_examples(toy_inputs / "training.jsonl", base.tokenizer, max_length=WIDTH, observer=Silent())


def quantized(base: Base) -> Parameters:
    return round_base(base, 4, RUNTIME)


def reader(base: Base) -> Any:
    return lambda name: base.weights.get(f"{name}.weight")


def settings() -> Settings:
    return Settings(
        mode="residual",
        scale_learning_rate=RATE,
        code_learning_rate=2e-3,
        flip_budget=0.05,
        accumulator="float32",
        gradient_tokens=1.0,
    )


def prepared(base: Base, steps: int) -> Setting:
    parameters = quantized(base)
    model = load_quantized(base, parameters, RUNTIME)
    optimizer = HFDiodeMix(
        parameters,
        settings(),
        Schedule(steps=steps, warmup_fraction=0.1),
        anchors=[layer.anchor for layer in quant_linears(model)],
        seed=0,
        float_weight=reader(base),
    )
    attach_sink(model, optimizer)
    return Setting(model, parameters, optimizer)


def row(example: Example) -> dict[str, Tensor]:
    padding = WIDTH - len(example.ids)
    labels = [token if mark else -100 for token, mark in zip(example.ids, example.learned, strict=True)]
    return {
        "input_ids": torch.tensor([*example.ids, *[0] * padding]),
        "labels": torch.tensor([*labels, *[-100] * padding]),
    }


def batches(examples: list[Example], steps: int) -> Iterator[dict[str, Tensor]]:
    for number in range(steps):
        rows = [row(example) for example in examples[8 * number % 40 :][:8]]
        yield {name: torch.stack([item[name] for item in rows]) for name in ("input_ids", "labels")}


def arguments(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.0,
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataloader_pin_memory": False,
        "seed": 0,
    } | changes


def snapshot(parameters: Parameters) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": tensor.clone()
        for name, p in parameters.items()
        for part, tensor in (("codes", p.codes_NK), ("scales", p.scale_NG))
    }


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def moved_codes(before: dict[str, Tensor], after: dict[str, Tensor]) -> int:
    return sum(int((before[name] != after[name]).sum()) for name in before if name.endswith("codes"))


def test_a_torch_loop_trains_what_our_own_would_bit_for_bit(base: Base, examples: list[Example]) -> None:
    ours = quantized(base)
    model = load_quantized(base, ours, RUNTIME)
    diodemix = DiodeMix(ours, settings(), Schedule(steps=6, warmup_fraction=0.1), seed=0, float_weight=reader(base))
    attach_sink(model, diodemix)
    for number, batch in enumerate(batches(examples, 6)):
        diodemix.start(number)
        model(**batch).loss.backward()
        diodemix.finish()

    theirs = prepared(base, steps=6)
    scheduler = lr_scheduler(theirs.optimizer)
    for batch in batches(examples, 6):
        theirs.optimizer.zero_grad()
        theirs.model(**batch).loss.backward()
        theirs.optimizer.step()
        scheduler.step()
    assert_equal(snapshot(theirs.parameters), snapshot(ours))
    assert moved_codes(snapshot(quantized(base)), snapshot(ours)) > 0


@pytest.mark.parametrize("passes", [2, 3])
def test_any_number_of_backward_passes_makes_one_step(base: Base, examples: list[Example], passes: int) -> None:
    whole, split = prepared(base, steps=3), prepared(base, steps=3)
    for batch in batches(examples, 3):
        whole.model(**batch).loss.backward()
        whole.optimizer.step()
        learned = (batch["labels"][:, 1:] != -100).sum()
        for part in range(passes):
            piece = {name: tensor[part::passes] for name, tensor in batch.items()}
            split.model(**piece, num_items_in_batch=learned).loss.backward()
        split.optimizer.step()
    one, two = snapshot(whole.parameters), snapshot(split.parameters)
    codes = sum(tensor.numel() for name, tensor in one.items() if name.endswith("codes"))
    # Sums in another order differ in the last bit, and a code on the edge of its cell may fall to either side.
    assert moved_codes(one, two) / codes < 1e-3
    for name in one:
        if name.endswith("scales"):
            torch.testing.assert_close(one[name], two[name], rtol=4e-3, atol=0)


def test_trainer_lowers_the_loss_and_moves_codes_and_nothing_else(
    base: Base, examples: list[Example], tmp_path: Path
) -> None:
    from transformers import Trainer, TrainingArguments

    model, parameters, optimizer = prepared(base, steps=18)
    before = snapshot(parameters)
    floats = {name: tensor.clone() for name, tensor in model.named_parameters()}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**arguments(tmp_path, num_train_epochs=3)),
        train_dataset=[row(example) for example in examples],
        optimizers=(optimizer, lr_scheduler(optimizer)),
        callbacks=[SaveCodes(parameters)],
    )
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 18
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.3
    assert moved_codes(before, snapshot(parameters)) > 0
    assert any("anchor" in name for name in floats)
    assert all(torch.equal(floats[name], tensor) for name, tensor in model.named_parameters())
    assert_equal(snapshot(load_parameters(tmp_path, RUNTIME.device)), snapshot(parameters))


def test_a_trainer_that_was_interrupted_continues_bit_for_bit(
    base: Base, examples: list[Example], tmp_path: Path
) -> None:
    from transformers import Trainer, TrainingArguments

    def trainer(folder: Path, setting: Setting, **changes: Any) -> Any:
        return Trainer(
            model=setting.model,
            args=TrainingArguments(**arguments(folder, save_strategy="steps", save_steps=2, **changes)),
            train_dataset=[row(example) for example in examples],
            optimizers=(setting.optimizer, lr_scheduler(setting.optimizer)),
            callbacks=[SaveCodes(setting.parameters)],
        )

    straight = prepared(base, steps=4)
    trainer(tmp_path / "a", straight, max_steps=4).train()
    first = prepared(base, steps=4)
    trainer(tmp_path / "b", first, max_steps=2).train()
    assert_equal(snapshot(load_parameters(tmp_path / "b" / "checkpoint-2", RUNTIME.device)), snapshot(first.parameters))

    second = prepared(base, steps=4)
    trainer(tmp_path / "b", second, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert_equal(snapshot(second.parameters), snapshot(straight.parameters))
    assert moved_codes(snapshot(first.parameters), snapshot(straight.parameters)) > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_trainer_lowers_the_loss_and_moves_codes(
    base: Base, toy_inputs: Path, tmp_path: Path, checkpointing: bool
) -> None:
    from datasets import Dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, parameters, optimizer = prepared(base, steps=18)
    before = snapshot(parameters)
    records = [
        {
            "prompt": [{"role": "user", "content": f"{number}?"}],
            "completion": [{"role": "assistant", "content": f"{number} is {'odd' if number % 2 else 'even'}"}],
        }
        for number in range(48)
    ]
    config = arguments(tmp_path, num_train_epochs=3, max_length=WIDTH, gradient_checkpointing=checkpointing)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**config),
        train_dataset=Dataset.from_list(records),
        processing_class=base.tokenizer,
        optimizers=(optimizer, lr_scheduler(optimizer)),
    )
    trainer.train()
    losses = losses_of(trainer)
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.3
    assert moved_codes(before, snapshot(parameters)) > 0


def test_another_scheduler_drives_codes_and_scales_alike(base: Base, examples: list[Example]) -> None:
    model, parameters, optimizer = prepared(base, steps=6)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = snapshot(parameters)
    for batch in batches(examples, 3):
        model(**batch).loss.backward()
        optimizer.step()
        scheduler.step()
    after = snapshot(parameters)
    assert optimizer.rate_factor == 0.0
    assert_equal(before, after)


def test_a_step_without_a_backward_pass_moves_nothing(base: Base) -> None:
    _, parameters, optimizer = prepared(base, steps=2)
    before = snapshot(parameters)
    optimizer.step()
    assert optimizer.report is None
    assert_equal(before, snapshot(parameters))


def test_a_gradient_that_was_taken_up_cannot_be_zeroed(base: Base, examples: list[Example]) -> None:
    model, _, optimizer = prepared(base, steps=2)
    model(**next(batches(examples, 1))).loss.backward()
    with pytest.raises(RuntimeError, match="call step\\(\\) after the backward passes"):
        optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()


def test_the_state_of_another_optimizer_is_refused(base: Base) -> None:
    _, _, optimizer = prepared(base, steps=2)
    with pytest.raises(BadModel, match="not the state of a DiodeMix on this model"):
        optimizer.load_state_dict(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1).state_dict())
