"""The model card says what is known, in the form that Hugging Face's own tools read, around what people wrote."""

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from bitsmith_core.bundle import Environment, FileEntry, LayerBits, Manifest, QuantizationFacts, TrainingFacts
from bitsmith_core.db.models import EvalResult, Model, Version
from bitsmith_core.ids import DEFAULT_PROJECT, FileId, JobId, ModelId
from bitsmith_core.registry import card, front_matter
from huggingface_hub import ModelCard

QUANTIZATION = QuantizationFacts(
    scheme="layer-mix", bpw_codes=2.5, bpw_effective=2.75, quantized_weights=400, float_weights=10,
    quantized_bytes=1, model_bytes=3_100_000_000, float_bytes=14_000_000_000,
    layers=[
        LayerBits(name="model.layers.0.mlp.up_proj", bits=2, group_size=64, weights=300),
        LayerBits(name="model.layers.0.mlp.down_proj", bits=4, group_size=32, weights=100),
    ],
    notes=["down_proj: groups of 32, for 64 do not divide its inputs"],
)  # fmt: skip
TRAINING = TrainingFacts(
    optimizer="diodemix", mode="scales_only", steps=100, examples=800, tokens=51200, first_loss=2.5, last_loss=1.25,
    flips=0, flip_rate=0.0, flip_budget=0.0,
)  # fmt: skip
MANIFEST = Manifest(
    base_model="hf:org/tiny@v2",
    spec_sha256="5" * 64,
    files=[
        FileEntry(path="bf16/config.json", bytes=2, sha256="b" * 64),
        FileEntry(path="model.safetensors", bytes=1000, sha256="a" * 64),
    ],
    quantization=QUANTIZATION,
    training=TRAINING,
    stages=[],
    scores=[],
    environment=Environment(engine="0.1.0", torch="2.13.0", transformers="5.23.0", device="cpu", seed=7),
)


def model(**changes: Any) -> Model:
    facts: dict[str, Any] = {"display_name": None, "task": "text-generation", "licence": None, "card": None, "tags": []}
    named = {
        "id": ModelId("model-1"),
        "project_id": DEFAULT_PROJECT,
        "name": "tiny-qsft",
        "base_model": "hf:org/tiny@v2",
    }
    return Model(**named, **{**facts, **changes})


def version(subject: str = "qsft") -> Version:
    return Version(
        number=3,
        subject=subject,
        job_id=JobId("ftjob-1"),
        manifest_sha256="d" * 64,
        training_file=FileId("file-1"),
        created_at=datetime(2026, 5, 4, tzinfo=UTC),
    )


def score(subject: str, value: float, **changes: Any) -> EvalResult:
    facts = {
        "task": "piqa", "metric": "accuracy", "stderr": 0.01, "n": 1838, "n_unit": "questions",
        "higher_is_better": True, "comparable_key": "k", "details": {"num_fewshot": 5, "harness": None},
    }  # fmt: skip
    return EvalResult(subject=subject, value=value, **{**facts, **changes})


def read(text: str) -> tuple[dict[str, Any], str]:
    """The front matter as a YAML library reads it, and the rest."""
    _, head, body = text.split("---\n", 2)
    fields: dict[str, Any] = yaml.safe_load(head)
    return fields, body


def test_hugging_faces_own_reader_finds_the_facts_and_the_scores() -> None:
    scores = [score("float", 0.79), score("qsft", 0.78), score("quantized", 0.7)]
    owner = model(licence="apache-2.0", tags=["chat"], display_name="Tiny: trained")
    data = ModelCard(card.render(owner, version(), MANIFEST, scores)).data.to_dict()  # type: ignore[no-untyped-call]
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("org/tiny", "quantized", "apache-2.0")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert data["tags"] == ["bitsmith", "chat", "qsft"]
    assert data["quantization"] == {
        "scheme": "layer-mix",
        "bits_per_weight": 2.5,
        "bits_per_weight_with_scales": 2.75,
        "group_sizes": [32, 64],
        "weights_by_width": {"2-bit": 0.75, "4-bit": 0.25},
        "bytes": 3_100_000_000,
        "bytes_of_the_base": 14_000_000_000,
    }
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"] == "tiny-qsft@3"
    assert (result["task"], result["dataset"]) == ({"type": "text-generation"}, {"type": "piqa", "name": "piqa"})
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.78)
    assert metric["args"] == {
        "stderr": 0.01, "n": 1838, "n_unit": "questions", "comparable_key": "k", "num_fewshot": 5,
    }  # fmt: skip


def test_what_nobody_filled_in_is_left_out() -> None:
    adapters = MANIFEST.model_copy(update={"quantization": None, "training": None, "files": MANIFEST.files[1:]})
    fields, body = read(card.render(model(), version("lora"), adapters, []))
    assert set(fields) == {"base_model", "base_model_relation", "library_name", "pipeline_tag", "tags"}
    assert (fields["base_model_relation"], fields["library_name"]) == ("finetune", "bitsmith")
    assert "## Scores" not in body
    assert "## Use it" not in body, "there is nothing that transformers could load"


def test_the_facts_stand_around_the_text_of_people() -> None:
    text = "---\nlicense: mit\n---\n\nFor **internal** use.\n\n---\n\nAsk Ada."
    _, body = read(card.render(model(card=text, display_name="Tiny"), version(), MANIFEST, [score("qsft", 0.78)]))
    order = ["# Tiny, version 3", "3.1 GB, 22% of the base's 14 GB", "For **internal** use.", "---", "Ask Ada.",
             "## Facts", "job `ftjob-1` (qsft)", "`file-1`", "layer-mix; 2-bit 75.0%, 4-bit 25.0%",
             "100 steps, 51200 tokens", "2.5 → 1.25", "seed 7", "## Scores", "0.78 ± 0.01", "## Use it",
             'from_pretrained("tiny-qsft", revision="3")']  # fmt: skip
    places = [body.index(part) for part in order]
    assert places == sorted(places)
    assert "license: mit" not in body


def test_a_change_is_told_only_of_scores_that_may_be_compared() -> None:
    pairs = [score("float", 0.79), score("qsft", 0.78), score("float", 0.5, task="wic", comparable_key="other")]
    _, body = read(card.render(model(), version(), MANIFEST, [*pairs, score("qsft", 0.6, task="wic")]))
    lines = {line.split(" ")[1]: line for line in body.splitlines() if line.startswith(("| piqa", "| wic"))}
    assert lines["piqa"] == "| piqa (accuracy, ↑) | 0.78 ± 0.01 | 0.79 ± 0.01 | -0.01 | 1838 questions |"
    assert lines["wic"] == "| wic (accuracy, ↑) | 0.6 ± 0.01 |  |  | 1838 questions |"


def test_of_two_evaluations_the_later_counts() -> None:
    scores = [score("qsft", 0.1), score("qsft", 0.9)]
    data = read(card.render(model(), version(), MANIFEST, scores))[0]
    assert [metric["value"] for metric in data["model-index"][0]["results"][0]["metrics"]] == [0.9]


@pytest.mark.parametrize(
    "value",
    [
        "", "yes", "12", "a: b # c", "- x", 'quote " and \\', "two\nlines\ttab", "\x00\x1f\x7f\x85", "zero\u200bwidth",
        "ends\u2028here", "\ufeff", "量化", "😀", "\U000e0001", "---", "{x}", "[]", "~", 0, -5, True, None, 0.5, 1e-05,
        1e22, float("inf"), -float("inf"), [], {}, [1, [2, {"a": [None]}]], [{"a": 1, "b": {"c": "d"}}, {}], {"a": {}},
    ],
)  # fmt: skip
def test_whatever_is_written_into_the_front_matter_is_read_back(value: front_matter.Value) -> None:
    written = front_matter.write({"before": 1, "key": value, "after": "x"})
    head = written.removeprefix("---\n").removesuffix("---\n")
    read_back = yaml.safe_load(head)
    assert read_back == {"before": 1, "key": value, "after": "x"}
    assert type(read_back["key"]) is type(value)
