"""A score is never shown without its error and its n, and both bits-per-weight stand side by side."""

import io
from typing import Any

import pytest
from bitsmith_client import show
from bitsmith_client.sdk import Job, Model, Score, StageFacts, Version
from rich.console import Console, RenderableType


def drawn(renderable: RenderableType) -> str:
    screen = io.StringIO()
    Console(file=screen, width=200, color_system=None).print(renderable)
    return screen.getvalue()


def score(subject: str, value: float, stderr: float | None, *, metric: str = "perplexity") -> Score:
    is_share = metric == "accuracy"
    return Score(
        subject=subject, task="answer_choice" if is_share else "answer_perplexity", metric=metric, value=value,
        stderr=stderr, n=60 if is_share else 2950, n_unit="questions" if is_share else "tokens",
        higher_is_better=is_share, comparable_key="k",
    )  # fmt: skip


def version(*scores: Score) -> Version:
    facts: dict[str, Any] = {"float_bytes": 269_000_000, "model_bytes": 112_000_000}
    return Version.model_validate(
        {
            "id": "m@2", "model": "m", "version": 2, "job_id": "ftjob-1", "created_at": 0, "bytes": 381_000_000,
            "bpw_codes": 3.5, "bpw_effective": 3.79, "manifest_sha256": "0" * 64, "quantization": facts,
            "scores": [item.model_dump() for item in scores],
        }
    )  # fmt: skip


def test_the_result_table_compares_three_subjects_with_errors_and_sizes() -> None:
    found = version(
        score("float", 20.5, 0.4), score("quantized", 31.25, 0.61), score("qsft", 22.0, 0.45),
        score("float", 0.55, 0.064, metric="accuracy"), score("qsft", 0.5, None, metric="accuracy"),
    )  # fmt: skip
    lines = drawn(show.scores_table(found)).splitlines()
    assert lines[0].split("  ")[0] == ""
    assert "validation perplexity ↓" in lines[0]
    assert "multiple choice ↑" in lines[0]
    rows = {line.split("  ")[0].strip(): line for line in lines[1:]}
    assert list(rows) == ["float base", "quantized", "Q-SFT"]
    assert "20.50 ± 0.40 (n=2,950 tokens)" in rows["float base"]
    assert "55.0 ± 6.4 % (n=60 questions)" in rows["float base"]
    assert rows["float base"].split()[-4:] == ["269.0", "MB", "16", "16"]
    assert "50.0 % (n=60 questions)" in rows["Q-SFT"]
    assert rows["Q-SFT"].split()[-4:] == ["112.0", "MB", "3.50", "3.79"]


def test_merged_adapters_have_scores_and_no_bits() -> None:
    scores = [score("float", 20.5, 0.4), score("lora", 18.25, 0.3)]
    adapters = Version.model_validate(
        version(*scores).model_dump() | {"quantization": None, "bpw_codes": None, "bpw_effective": None}
    )
    row = drawn(show.scores_table(adapters)).splitlines()[2]
    assert row.startswith("LoRA")
    assert "18.25 ± 0.30" in row
    assert row.split()[-3:] == ["-", "-", "-"]
    assert drawn(show.versions_table([adapters])).splitlines()[1].split()[4:6] == ["-", "-"]
    model = Model.model_validate({"id": "m", "created": 0, "base_model": "hf:a/b", "latest": adapters.model_dump()})
    text = drawn(show.models_table([model]))
    assert "validation perplexity 18.25 ± 0.30" in text
    assert text.splitlines()[1].split()[4:6] == ["-", "-"]


def test_a_version_that_was_only_quantized_has_two_rows() -> None:
    text = drawn(show.scores_table(version(score("float", 20.5, 0.4), score("quantized", 31.25, 0.61))))
    assert "Q-SFT" not in text


def test_the_registry_shows_the_trained_score_of_the_newest_version() -> None:
    model = Model.model_validate(
        {"id": "m", "created": 0, "base_model": "hf:a/b", "latest": version(score("qsft", 22.0, 0.45)).model_dump()}
    )
    text = drawn(show.models_table([model]))
    assert "m@2" in text
    assert "validation perplexity 22.00 ± 0.45" in text
    assert text.splitlines()[1].split()[4:6] == ["3.50", "3.79"]


def test_jobs_say_where_they_are_or_why_they_ended() -> None:
    common: dict[str, Any] = {"model": "hf:a/b", "training_file": "f", "validation_file": "g", "created_at": 0}
    running = Job.model_validate(
        {**common, "id": "ftjob-1", "status": "running", "stage": "training", "progress": {"done": 3, "total": 30}}
    )
    failed = Job.model_validate(
        {
            **common,
            "id": "ftjob-2",
            "status": "failed",
            "progress": {},
            "error": {"code": "nan", "message": "loss is NaN"},
        }
    )
    text = drawn(show.jobs_table([running, failed]))
    assert "training 3/30" in text
    assert "loss is NaN" in text


def test_stages_show_time_and_memory_and_where_they_came_from() -> None:
    stages = [
        StageFacts(stage="quantizing", wall_s=3.25, peak_memory_bytes=900_000_000, resumed=True),
        StageFacts(stage="training", wall_s=187, peak_memory_bytes=1_250_000_000),
    ]
    text = drawn(show.stages_table(stages))
    assert "quantizing (earlier attempt)" in text
    assert "3:07" in text
    assert "1.25 GB" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (3600, "1:00:00"),
        (float("inf"), "?"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_600, "1.0 MB"), (3_100_000_000, "3.10 GB")]
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert show.size(n_bytes) == text
