"""What the scores promise: plain arithmetic on plain forward passes, with honest errors, equal for equal plans."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsmith_core.bundle import AnswerLoss, ChoiceScores
from bitsmith_core.spec import Evaluation
from bitsmith_engine.data.examples import Example, load_examples
from bitsmith_engine.errors import Diverged
from bitsmith_engine.evaluate.choice import accuracy, choice_scores
from bitsmith_engine.evaluate.perplexity import answer_losses, perplexity
from bitsmith_engine.evaluate.plan import Plan, make_plan
from bitsmith_engine.models.opening import load_float, open_base
from bitsmith_engine.ports import Silent
from bitsmith_engine.runtime import choose_runtime
from reference.likelihood import answer_log_likelihood

RUNTIME = choose_runtime("cpu")


@pytest.fixture(scope="module")
def model(toy_inputs: Path) -> Any:
    return load_float(open_base(toy_inputs / "model"), RUNTIME)


@pytest.fixture(scope="module")
def examples(toy_inputs: Path) -> list[Example]:
    tokenizer = open_base(toy_inputs / "model").tokenizer
    return load_examples(toy_inputs / "validation.jsonl", tokenizer, max_length=64, observer=Silent())


def plan_of(examples: list[Example], seed: int = 0, **settings: Any) -> Plan:
    return make_plan(examples, Evaluation.model_validate(settings), seed=seed, observer=Silent())


def test_losses_equal_those_of_one_sequence_at_a_time(model: Any, examples: list[Example]) -> None:
    found: dict[int, AnswerLoss] = {}
    for part in answer_losses(model, examples, RUNTIME):
        found |= part
    for index, example in enumerate(examples):
        expected = -answer_log_likelihood(model, example.prompt_ids, example.answer_ids)
        assert found[index].nll == pytest.approx(expected, rel=1e-4)
        assert found[index].tokens == len(example.answer_ids)


def test_choices_in_one_row_score_as_if_they_were_alone(model: Any, examples: list[Example]) -> None:
    questions = plan_of(examples, multiple_choice={"questions": 5, "choices": 4}).questions
    found: dict[int, ChoiceScores] = {}
    for part in choice_scores(model, questions, RUNTIME):
        found |= part
    for index, question in enumerate(questions):
        expected = [
            answer_log_likelihood(model, question.prompt_ids, choice) / length
            for choice, length in zip(question.choices, question.lengths, strict=True)
        ]
        assert found[index].scores == pytest.approx(expected, rel=1e-4)


def test_a_model_that_overflows_chooses_nothing(toy_inputs: Path, examples: list[Example]) -> None:
    broken = load_float(open_base(toy_inputs / "model"), RUNTIME)
    broken.model.norm.weight.data[0] = math.nan
    questions = plan_of(examples, multiple_choice={"questions": 2, "choices": 4}).questions
    with pytest.raises(Diverged, match="no finite likelihood"):
        list(choice_scores(broken, questions, RUNTIME))


def test_a_question_has_its_own_answer_among_different_others(examples: list[Example]) -> None:
    own = {example.prompt_ids: example.answer_ids for example in examples}
    questions = plan_of(examples, multiple_choice={"questions": 100, "choices": 4}).questions
    assert len(questions) == len(examples)
    for question in questions:
        assert len(set(question.choices)) == 4
        assert question.choices[question.correct] == own[question.prompt_ids]


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices() -> None:
    value, stderr = perplexity([AnswerLoss(nll=3 * math.log(8), tokens=3), AnswerLoss(nll=math.log(8), tokens=1)])
    assert value == pytest.approx(8)
    assert stderr == pytest.approx(0, abs=1e-12)


def test_the_standard_error_is_the_spread_over_repeated_samples() -> None:
    random = torch.Generator().manual_seed(0)

    def sample() -> list[AnswerLoss]:
        tokens = torch.randint(5, 30, (200,), generator=random)
        rates = 2 + 0.5 * torch.randn(200, generator=random)
        return [AnswerLoss(nll=float(t * r), tokens=int(t)) for t, r in zip(tokens, rates, strict=True)]

    drawn = [perplexity(sample()) for _ in range(300)]
    spread = torch.tensor([value for value, _ in drawn]).std().item()
    claimed = sum(stderr for _, stderr in drawn if stderr is not None) / len(drawn)
    assert claimed == pytest.approx(spread, rel=0.1)


def test_accuracy_counts_the_likeliest_answers() -> None:
    items = [ChoiceScores(scores=[-1.0, -2.0], correct=correct) for correct in (0, 0, 0, 1)]
    assert accuracy(items) == pytest.approx((0.75, math.sqrt(0.75 * 0.25 / 3)))


def test_equal_settings_compare_and_others_do_not(examples: list[Example]) -> None:
    first, again, other = plan_of(examples), plan_of(examples), plan_of(examples, seed=1, perplexity_examples=5)
    assert (first.perplexity_key, first.choice_key) == (again.perplexity_key, again.choice_key)
    assert first.perplexity_key != other.perplexity_key
    assert first.choice_key != other.choice_key


def test_too_few_answers_for_the_choices_leave_the_task_out(examples: list[Example]) -> None:
    assert plan_of(examples[:3], multiple_choice={"choices": 4}).questions == ()


def test_a_model_that_overflows_is_told_apart_from_a_bad_one(toy_inputs: Path, examples: list[Example]) -> None:
    broken = load_float(open_base(toy_inputs / "model"), RUNTIME)
    broken.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(Diverged, match="no finite likelihood"):
        list(answer_losses(broken, examples, RUNTIME))
