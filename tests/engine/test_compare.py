"""What a comparison promises: exact p-values, intervals that cover, and no verdict on different questions."""

from itertools import product

import numpy as np
import pytest
from bitsmith_core.bundle import (
    AnswerLoss,
    BenchmarkItems,
    ChoiceScores,
    DocumentAnswer,
    Evals,
    Score,
    Subject,
    SubjectItems,
)
from bitsmith_core.registry.paired import paired_answers, paired_losses
from bitsmith_engine.evaluate.compare import bootstrap, compare, compare_accuracy, compare_loss, mcnemar


@pytest.mark.parametrize("discordant", range(11))
def test_the_p_value_is_the_share_of_coin_tosses_at_least_as_uneven(discordant: int) -> None:
    tosses = [sum(toss) for toss in product((0, 1), repeat=discordant)]
    for heads in range(discordant + 1):
        unevenness = abs(2 * heads - discordant)
        as_uneven = sum(abs(2 * found - discordant) >= unevenness for found in tosses)
        assert mcnemar(heads, discordant - heads) == pytest.approx(as_uneven / len(tosses))


def test_thousands_of_items_overflow_nothing() -> None:
    assert mcnemar(2500, 2500) == 1.0
    assert 0 < mcnemar(2400, 2600) < 0.01


def test_accuracy_counts_only_where_the_two_differ() -> None:
    first = [True] * 9 + [False] * 3
    second = [True] * 4 + [False] * 6 + [True, False]
    found = compare_accuracy(first, second, seed=0)
    assert (found.n, found.only_first, found.only_second) == (12, 5, 1)
    assert found.difference.value == pytest.approx(4 / 12)
    assert found.p_value == pytest.approx(2 * (1 + 6) / 2**6)


def test_a_loss_is_compared_per_token_whatever_the_lengths() -> None:
    first = [AnswerLoss(nll=3.0, tokens=2), AnswerLoss(nll=20.0, tokens=10)]
    second = [AnswerLoss(nll=2.0, tokens=2), AnswerLoss(nll=15.0, tokens=10)]
    found = compare_loss(first, second, seed=0)
    assert found.difference.value == pytest.approx(6 / 12)
    # Two items: a resample is one of them twice, or both.
    assert found.difference.low == pytest.approx(0.5)
    assert found.difference.high == pytest.approx(0.5)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth() -> None:
    random = np.random.default_rng(0)
    truth, trials = 0.1, 400
    covered = 0
    for trial in range(trials):
        tokens = random.integers(5, 30, 150).astype(float)
        gains = tokens * random.normal(truth, 0.5, 150)
        found = bootstrap(gains, tokens, seed=trial, resamples=400)
        covered += found.low <= truth <= found.high
    assert covered / trials == pytest.approx(0.95, abs=0.03)


def test_the_interval_is_a_function_of_the_seed() -> None:
    gains, weights = np.random.default_rng(0).normal(size=40), np.ones(40)
    assert bootstrap(gains, weights, seed=1) == bootstrap(gains, weights, seed=1)
    assert bootstrap(gains, weights, seed=1) != bootstrap(gains, weights, seed=2)


def score(subject: Subject, task: str, metric: str, key: str) -> Score:
    return Score(
        subject=subject, task=task, metric=metric, value=0.5, stderr=None, n=3, n_unit="questions",
        higher_is_better=True, comparable_key=key,
    )  # fmt: skip


def evals(subject: Subject, *, right: list[bool], losses: list[float], key: str = "same", lone_task: str = "") -> Evals:
    answers = [
        DocumentAnswer(task="piqa", doc=doc, correct={"acc": is_right, "acc_norm": not is_right}, scores=[0.0, 0.0])
        for doc, is_right in enumerate(right)
    ]
    scores = [
        score(subject, "answer_perplexity", "perplexity", "p"),
        score(subject, "answer_choice", "accuracy", "c"),
        score(subject, "piqa", "acc", key),
        score(subject, "piqa", "acc_norm", key),
    ]
    if lone_task:
        scores.append(score(subject, lone_task, "acc", "x"))
    items = SubjectItems(
        subject=subject,
        answer_perplexity=[AnswerLoss(nll=loss, tokens=1) for loss in losses],
        answer_choice=[ChoiceScores(scores=[0.0, -1.0], correct=0 if is_right else 1) for is_right in right],
        benchmarks=[BenchmarkItems(task="piqa", comparable_key=key, answers=answers)],
    )
    return Evals(scores=scores, items=[items])


def test_two_models_are_compared_on_every_task_they_share() -> None:
    first = evals("qsft", right=[True, True, False], losses=[1.0, 2.0])
    second = evals("quantized", right=[False, True, False], losses=[2.0, 3.0])
    found = {(item.task, item.metric): item for item in compare(first, "qsft", second, "quantized")}

    loss = found["answer_perplexity", "perplexity"].loss
    assert loss is not None
    assert loss.difference.value == pytest.approx(-1.0)
    for task, metric, sign in (("answer_choice", "accuracy", 1), ("piqa", "acc", 1), ("piqa", "acc_norm", -1)):
        accuracy = found[task, metric].accuracy
        assert accuracy is not None
        assert accuracy.difference.value == pytest.approx(sign / 3)
        assert accuracy.p_value == 1.0
    assert all(item.refused is None for item in found.values())


def test_different_questions_are_refused_with_the_reason() -> None:
    first = evals("qsft", right=[True], losses=[1.0], key="a" * 64, lone_task="boolq")
    second = evals("qsft", right=[True], losses=[1.0], key="b" * 64)
    found = {(item.task, item.metric): item for item in compare(first, "qsft", second, "qsft")}
    refused = found["piqa", "acc"].refused
    assert refused is not None
    assert "not asked the same" in refused
    assert "aaaaaaaaaaaa and bbbbbbbbbbbb" in refused
    assert found["piqa", "acc"].accuracy is None
    assert found["boolq", "acc"].refused == "only the first model was scored on it"
    assert found["answer_choice", "accuracy"].refused is None


def test_a_subject_that_was_not_scored_is_named() -> None:
    first = evals("qsft", right=[True], losses=[1.0])
    with pytest.raises(ValueError, match="no items of 'float'; there are \\['qsft'\\]"):
        compare(first, "float", first, "qsft")


def test_the_registrys_own_statistics_say_the_same_of_the_same_items() -> None:
    random = np.random.default_rng(5)
    tokens = random.integers(5, 30, 200)
    hard = random.normal(2.0, 0.5, 200)
    ours, theirs = (
        [AnswerLoss(nll=float(count * (base + noise)), tokens=int(count)) for count, base, noise in rows]
        for rows in (zip(tokens, hard, random.normal(shift, 0.2, 200), strict=True) for shift in (0.0, 0.03))
    )
    wanted, found = compare_loss(ours, theirs, seed=0).difference, paired_losses(ours, theirs)
    assert found.low is not None
    assert found.high is not None
    assert found.difference == pytest.approx(wanted.value, rel=1e-12)
    width = wanted.high - wanted.low
    assert found.low == pytest.approx(wanted.low, abs=width / 20)
    assert found.high == pytest.approx(wanted.high, abs=width / 20)

    right, also = (list(map(bool, random.random(200) < share)) for share in (0.7, 0.6))
    accuracy, answers = compare_accuracy(right, also, seed=0), paired_answers(right, also)
    assert answers.n == accuracy.n
    assert answers.difference == pytest.approx(accuracy.difference.value, rel=1e-12)
    assert answers.p_value == accuracy.p_value
    assert answers.low is not None
    width = accuracy.difference.high - accuracy.difference.low
    assert answers.low == pytest.approx(accuracy.difference.low, abs=width / 20)
