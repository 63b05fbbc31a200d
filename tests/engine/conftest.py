"""The toy model's fixtures."""

from pathlib import Path
from typing import Any

import pytest
from bitsmith_core.spec import JobSpec
from toy_model import save_toy_model, write_examples


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("toy") / "model"
    save_toy_model(folder)
    return folder


@pytest.fixture(scope="session")
def toy_inputs(toy_model: Path) -> Path:
    """INPUTS as the worker lays them out."""
    inputs = toy_model.parent
    write_examples(inputs / "training.jsonl", 48)
    write_examples(inputs / "validation.jsonl", 12, offset=100)
    return inputs


DISTILLATION = {"samples": 4, "max_length": 32, "block_epochs": 1, "end_to_end_epochs": 1}


def toy_spec(method: str = "qsft", **settings: Any) -> JobSpec:
    defaults: dict[str, Any] = {
        "evaluation": {"perplexity_examples": 8, "multiple_choice": {"questions": 6, "choices": 3}},
        "resources": {"device": "cpu"},
    }
    if method in ("qsft", "quantize"):
        defaults["quantization"] = {
            "scheme": "layer-mix", "bpw": 3.0, "calibration_samples": 4, "distillation": DISTILLATION,
        }  # fmt: skip
    if method in ("lora", "qlora"):
        defaults["training"] = {"batch_size": 8, "max_length": 64, "rank": 4, "learning_rate": 1e-2}
    if method == "qsft":
        defaults["training"] = {
            "batch_size": 8,
            "max_length": 64,
            "optimizer": {"mode": "residual", "code_learning_rate": 2e-3, "flip_budget": 0.05},
        }
    return JobSpec.model_validate(
        {
            "model": "local:toy",
            "training_file": "file-" + "0" * 26,
            "validation_file": "file-" + "0" * 25 + "1",
            "seed": 3,
            "method": {"type": method, method: defaults | settings},
        }
    )


@pytest.fixture
def spec() -> JobSpec:
    return toy_spec()
