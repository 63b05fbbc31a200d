"""Evaluations small enough to read: which of a few questions a model answers rightly."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitsmith_core.bundle import (
    EVALS,
    BenchmarkItems,
    DocumentAnswer,
    Environment,
    Evals,
    FileEntry,
    Manifest,
    Score,
    ScoreDetails,
    Subject,
    SubjectItems,
)
from bitsmith_core.registry import blobs
from bitsmith_core.storage import ObjectStore

ENVIRONMENT = Environment(engine="0.2.0", torch="2.13.0", transformers="5.23.0", device="cpu", seed=0)
Answers = Mapping[Subject, Mapping[str, Sequence[bool]]]
"""By subject and task."""


def evals(answers: Answers, *, key: str = "k") -> Evals:
    return Evals(
        scores=[
            Score(
                subject=subject, task=task, metric="acc", value=sum(right) / len(right), stderr=0.1, n=len(right),
                n_unit="questions", higher_is_better=True, comparable_key=f"{task}-{key}",
                details=ScoreDetails(num_fewshot=0, harness="lm_eval 0.4.13"),
            )
            for subject, tasks in answers.items() for task, right in tasks.items()
        ],
        items=[
            SubjectItems(
                subject=subject, answer_perplexity=[], answer_choice=[],
                benchmarks=[
                    BenchmarkItems(
                        task=task, comparable_key=f"{task}-{key}",
                        answers=[
                            DocumentAnswer(task=task, doc=doc, correct={"acc": is_right}, scores=[-1.0, -2.0])
                            for doc, is_right in enumerate(right)
                        ],
                    )
                    for task, right in tasks.items()
                ],
            )
            for subject, tasks in answers.items()
        ],
    )  # fmt: skip


def manifest(content: Evals, *, weights: str | None = None) -> Manifest:
    """Of a bundle with these evals; with a digest for `weights` it is a version's, without one an evaluation's."""
    data = content.model_dump_json().encode()
    files = [FileEntry(path=EVALS, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())]
    if weights is not None:
        files.append(FileEntry(path="model.safetensors", bytes=5, sha256=weights * 64))
    return Manifest(
        base_model="hf:org/tiny",
        spec_sha256="5" * 64,
        files=files,
        quantization=None,
        training=None,
        stages=[],
        scores=content.scores,
        environment=ENVIRONMENT,
    )


def put(store: ObjectStore, content: Evals, folder: Path) -> str:
    """Into the store as a worker would; answers the object's key."""
    file = folder / EVALS
    file.write_text(content.model_dump_json())
    key = blobs.object_key(hashlib.sha256(file.read_bytes()).hexdigest())
    store.put_file(key, file)
    return key
