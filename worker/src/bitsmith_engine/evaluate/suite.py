"""All tasks on one model, with every item kept for paired comparisons later."""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from bitsmith_core.bundle import AnswerLoss, BenchmarkItems, ChoiceScores, Score, ScoreDetails, Subject, SubjectItems

from bitsmith_engine.evaluate.benchmarks import run_benchmark
from bitsmith_engine.evaluate.choice import accuracy, choice_scores
from bitsmith_engine.evaluate.perplexity import answer_losses, perplexity
from bitsmith_engine.evaluate.plan import CHOICE_VERSION, PERPLEXITY_VERSION, Plan
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime


def evaluate(
    model: Any,
    tokenizer: Any,
    subject: Subject,
    plan: Plan,
    runtime: Runtime,
    observer: Observer,
    *,
    part: int,
    parts: int,
) -> tuple[list[Score], SubjectItems]:
    """Score one subject, the part-th (from 0) of `parts`.

    Raises:
        Stopped: between two batches.
    """
    before = part * plan.num_items

    def report(done: float) -> None:
        observer.progress(before + int(done), parts * plan.num_items)

    losses: dict[int, AnswerLoss] = {}
    choices: dict[int, ChoiceScores] = {}
    for found_losses in answer_losses(model, plan.examples, runtime):
        losses |= found_losses
        report(len(losses))
    for found_choices in choice_scores(model, plan.questions, runtime):
        choices |= found_choices
        report(len(losses) + len(choices))

    done = len(losses) + len(choices)
    benchmark_scores: list[Score] = []
    benchmark_items: list[BenchmarkItems] = []
    for benchmark in plan.benchmarks:
        on_progress = partial(_report_share, report, done, benchmark.num_docs)
        scores, answers = run_benchmark(benchmark, model, tokenizer, subject, runtime, on_progress)
        benchmark_scores += scores
        benchmark_items.append(answers)
        done += benchmark.num_docs

    items = SubjectItems(
        subject=subject,
        answer_perplexity=[losses[index] for index in range(len(plan.examples))],
        answer_choice=[choices[index] for index in range(len(plan.questions))],
        benchmarks=benchmark_items,
    )
    return [*_scores(items, plan, _template_sha256(tokenizer)), *benchmark_scores], items


def _report_share(report: Callable[[float], None], done: int, docs: int, share: float) -> None:
    report(done + share * docs)


def _template_sha256(tokenizer: Any) -> str | None:
    """Of the chat template that makes a prompt of an example; None: the tokenizer has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()


def _scores(items: SubjectItems, plan: Plan, template_sha256: str | None) -> list[Score]:
    details = ScoreDetails(
        task_version=str(PERPLEXITY_VERSION), template_sha256=template_sha256, harness=f"bitsmith {version('bitsmith')}"
    )
    scores = []
    if items.answer_perplexity:
        value, stderr = perplexity(items.answer_perplexity)
        scores.append(
            Score(
                subject=items.subject,
                task="answer_perplexity",
                metric="perplexity",
                value=value,
                stderr=stderr,
                n=sum(loss.tokens for loss in items.answer_perplexity),
                n_unit="tokens",
                higher_is_better=False,
                comparable_key=plan.perplexity_key,
                details=details,
            )
        )
    if items.answer_choice:
        share, share_stderr = accuracy(items.answer_choice)
        scores.append(
            Score(
                subject=items.subject,
                task="answer_choice",
                metric="accuracy",
                value=share,
                stderr=share_stderr,
                n=len(items.answer_choice),
                n_unit="questions",
                higher_is_better=True,
                comparable_key=plan.choice_key,
                details=details.model_copy(update={"task_version": str(CHOICE_VERSION)}),
            )
        )
    return scores
