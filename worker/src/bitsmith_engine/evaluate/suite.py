"""All tasks on one model, with every item kept for paired comparisons later."""

from typing import Any

from bitsmith_core.bundle import Score, Subject
from pydantic import BaseModel, ConfigDict

from bitsmith_engine.evaluate.choice import ChoiceScores, accuracy, choice_scores
from bitsmith_engine.evaluate.perplexity import AnswerLoss, answer_losses, perplexity
from bitsmith_engine.evaluate.plan import Plan
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime


class SubjectItems(BaseModel):
    """One model's answers, in the plan's order; equal positions of two subjects are the same item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Subject
    answer_perplexity: list[AnswerLoss]
    answer_choice: list[ChoiceScores]


class Evals(BaseModel):
    """The evals.json of a bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: list[Score]
    items: list[SubjectItems]


def evaluate(
    model: Any, subject: Subject, plan: Plan, runtime: Runtime, observer: Observer, *, part: int, parts: int
) -> tuple[list[Score], SubjectItems]:
    """Score one subject, the part-th (from 0) of `parts`.

    Raises:
        Stopped: between two batches.
    """
    per_part = len(plan.examples) + len(plan.questions)
    losses: dict[int, AnswerLoss] = {}
    choices: dict[int, ChoiceScores] = {}
    for found_losses in answer_losses(model, plan.examples, runtime):
        losses |= found_losses
        observer.progress(part * per_part + len(losses), parts * per_part)
    for found_choices in choice_scores(model, plan.questions, runtime):
        choices |= found_choices
        observer.progress(part * per_part + len(losses) + len(choices), parts * per_part)
    items = SubjectItems(
        subject=subject,
        answer_perplexity=[losses[index] for index in range(len(plan.examples))],
        answer_choice=[choices[index] for index in range(len(plan.questions))],
    )
    return _scores(items, plan), items


def _scores(items: SubjectItems, plan: Plan) -> list[Score]:
    value, stderr = perplexity(items.answer_perplexity)
    scores = [
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
        )
    ]
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
            )
        )
    return scores
