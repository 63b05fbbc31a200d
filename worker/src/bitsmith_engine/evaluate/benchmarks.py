"""The field's benchmarks, with every document's answer kept.

Two scores of a benchmark compare if lm_eval asked the same: `comparable_key` digests the task's version, its metrics
and number of examples, and every rendered prompt with its answers and the right one. Pack, template, few-shot examples
and limit are all in there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitsmith_core.bundle import BenchmarkItems, DocumentAnswer, Score, ScoreDetails, Subject
from bitsmith_core.spec import BenchmarkTask

from bitsmith_engine.errors import MissingPackage
from bitsmith_engine.evaluate.packs import Benchmark, read_benchmarks
from bitsmith_engine.runtime import Runtime

BENCHMARK_VERSION = 1  # raise when a score on the same prompts would change

_FILTER = "none"  # lm_eval's name for answers taken as they are; all our tasks have this one only
_TEMPLATE = (
    "process_docs", "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter",
    "fewshot_delimiter", "gen_prefix",
)  # fmt: skip
"""What lm_eval's configuration of a task makes a prompt with; functions are there as their source."""


def open_benchmarks(tasks: Sequence[BenchmarkTask], packs: Path) -> tuple[Benchmark, ...]:
    """Everything that could make the benchmarks fail later, checked before hours of work depend on it.

    Raises:
        MissingPackage: there are tasks, and lm_eval is not installed.
        BadData: a pack is missing or broken.
    """
    if tasks and find_spec("lm_eval") is None:
        raise MissingPackage(
            "evaluation.benchmarks needs lm_eval, which this worker's engine lacks; "
            "install it with: pip install 'bitsmith[eval]'"
        )
    return read_benchmarks(tasks, packs)


def run_benchmark(
    benchmark: Benchmark,
    model: Any,
    tokenizer: Any,
    subject: Subject,
    runtime: Runtime,
    on_progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[Score], BenchmarkItems]:
    """One benchmark on one model.

    Args:
        on_progress: hears the share that is done, between two batches; what it raises ends the run.
    """
    # Imported here: it takes a second and is optional, and most jobs have no benchmark.
    from bitsmith_engine.evaluate import harness

    results = harness.run(benchmark, harness.EngineLM(model, tokenizer, runtime, on_progress))
    key = _comparable_key(benchmark, results)
    answers = [
        DocumentAnswer(
            task=group.name,
            doc=sample["doc_id"],
            correct={metric: bool(sample[metric]) for metric in sample["metrics"]},
            scores=[log_likelihood for log_likelihood, _ in sample["filtered_resps"]],
        )
        for group in benchmark.groups
        for sample in results["samples"][group.name]
    ]
    return _scores(benchmark, results, subject, key), BenchmarkItems(
        task=benchmark.label, comparable_key=key, answers=answers
    )


def _scores(benchmark: Benchmark, results: Mapping[str, Any], subject: Subject, key: str) -> list[Score]:
    # A group's own row is called like the benchmark, and so is the row of a task that is alone.
    row = results["results"][benchmark.task]
    details = _details(benchmark, results)
    scores = []
    for metric, is_higher_better in results["higher_is_better"][benchmark.task].items():
        value, stderr = row.get(f"{metric},{_FILTER}"), row.get(f"{metric}_stderr,{_FILTER}")
        if value is None:  # a group aggregates only some of its tasks' metrics
            continue
        scores.append(
            Score(
                subject=subject,
                task=benchmark.label,
                metric=metric,
                value=float(value),
                stderr=None if stderr in (None, "N/A") else float(stderr),
                n=row["sample_len"],
                n_unit="questions",
                higher_is_better=is_higher_better,
                comparable_key=key,
                details=details,
            )
        )
    return scores


def _details(benchmark: Benchmark, results: Mapping[str, Any]) -> ScoreDetails:
    configs = [results["configs"][group.name] for group in benchmark.groups]
    return ScoreDetails(
        num_fewshot=benchmark.num_fewshot,
        task_version=", ".join(sorted({str(results["versions"][group.name]) for group in benchmark.groups})),
        task_sha256=_sha256([[group.name, group.docs[: group.limit], group.shots] for group in benchmark.groups]),
        template_sha256=_sha256([{field: config.get(field) for field in _TEMPLATE} for config in configs]),
        harness=f"lm_eval {version('lm_eval')}",
        filter=_FILTER,
    )


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _comparable_key(benchmark: Benchmark, results: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update(json.dumps(parts, separators=(",", ":")).encode() + b"\n")

    add("benchmark", BENCHMARK_VERSION, benchmark.task, benchmark.num_fewshot)
    for group in benchmark.groups:
        metrics = sorted(results["higher_is_better"][group.name])
        add(group.name, str(results["versions"][group.name]), metrics)
        for sample in results["samples"][group.name]:
            add(sample["doc_id"], sample["target"], sample["arguments"])
    return digest.hexdigest()
