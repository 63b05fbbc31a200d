"""A gate refuses a loss that is real and lets noise pass."""

import pytest
from bitsmith_core.bundle import (
    AnswerLoss,
    BenchmarkItems,
    ChoiceScores,
    DocumentAnswer,
    Evals,
    SubjectItems,
)
from bitsmith_core.ids import EvalId
from bitsmith_core.registry.compare import Compared, Measured, compare, headlines, pairs_of
from bitsmith_core.registry.gates import GATES, Gate, judge
from pydantic import ValidationError

RIGHT, WRONG = ChoiceScores(scores=[0.0, -1.0], correct=0), ChoiceScores(scores=[0.0, -1.0], correct=1)


def side(*, right: int, of: int, loss: float = 1.0, piqa: int | None = None, key: str = "k") -> Evals:
    """A model with the first `right` of `of` questions right, and the same loss on each of ten answers."""
    answers = [DocumentAnswer(task="piqa", doc=doc, correct={"acc": doc < (piqa or 0)}, scores=[]) for doc in range(of)]
    return Evals(
        scores=[],
        items=[
            SubjectItems(
                subject="qsft",
                answer_perplexity=[AnswerLoss(nll=loss * (5 + number % 3), tokens=5) for number in range(10)],
                answer_choice=[RIGHT if number < right else WRONG for number in range(of)],
                benchmarks=[] if piqa is None else [BenchmarkItems(task="piqa", comparable_key=key, answers=answers)],
            )
        ],
    )


def measured(name: str, evals: Evals, *, key: str = "k", items_key: str | None = "") -> list[Measured]:
    items = evals.items[0]
    tasks = [("answer_perplexity", "perplexity", False), ("answer_choice", "accuracy", True)]
    tasks += [("piqa", "acc", True)] if items.benchmarks else []
    return [
        Measured(
            name=name, subject="qsft", task=task, metric=metric, value=0.5, stderr=None, n=10, higher_is_better=higher,
            comparable_key=key, eval_id=EvalId(f"eval-{name}"), items_key=name if items_key == "" else items_key,
        )
        for task, metric, higher in tasks
    ]  # fmt: skip


def held_against(a: Evals, b: Evals, *, a_key: str = "k", b_key: str = "k") -> list[Compared]:
    store = {"a@2": a, "b@1": b}
    rows = measured("a@2", a, key=a_key), measured("b@1", b, key=b_key)
    return compare(headlines(pairs_of(*rows, a_name="a@2", b_name="b@1")), store.get)


def judged(gate: Gate, a: Evals, b: Evals, **keys: str) -> tuple[bool, dict[str, str]]:
    report = judge(gate, held_against(a, b, **keys), candidate="a@2", against="b@1")
    return report.passed, {check.task: check.reason for check in report.checks}


def test_a_significant_loss_is_refused_and_named() -> None:
    passed, reasons = judged(Gate(), side(right=60, of=100), side(right=80, of=100))
    assert not passed
    assert reasons["answer_choice"].startswith("a significant loss: -0.2 share of right answers")


def test_noise_passes() -> None:
    passed, reasons = judged(Gate(), side(right=77, of=100), side(right=80, of=100))
    assert passed
    assert reasons["answer_choice"].startswith("a loss within noise")


def test_a_gain_passes() -> None:
    assert judged(Gate(), side(right=90, of=100), side(right=60, of=100))[0]


def test_a_higher_loss_of_the_answers_is_a_loss_and_a_lower_one_is_none() -> None:
    better, worse = side(right=5, of=10, loss=1.0), side(right=5, of=10, loss=1.2)
    assert judged(Gate(), better, worse)[0]
    passed, reasons = judged(Gate(), worse, better)
    assert not passed
    assert "nats per token" in reasons["answer_perplexity"]


def test_a_loss_that_is_allowed_passes_though_it_is_real() -> None:
    a, b = side(right=90, of=100), side(right=100, of=100)
    assert not judged(Gate(max_loss=0.05), a, b)[0]
    assert judged(Gate(max_loss=0.1), a, b)[0]


def test_only_the_suite_is_asked() -> None:
    a, b = side(right=60, of=100), side(right=80, of=100)
    passed, reasons = judged(Gate(suite=["answer_perplexity"]), a, b)
    assert (passed, set(reasons)) == (True, {"answer_perplexity"})


@pytest.mark.parametrize(("missing", "passes"), [("refuse", False), ("allow", True)])
def test_what_was_not_asked_the_same_is_missing_not_passed(missing: str, passes: bool) -> None:
    gate = Gate.model_validate({"missing": missing})
    a, b = side(right=80, of=100), side(right=80, of=100)
    passed, reasons = judged(gate, a, b, a_key="one", b_key="two")
    assert passed is passes
    assert "not asked the same" in reasons["answer_choice"]


@pytest.mark.parametrize(("missing", "passes"), [("refuse", False), ("allow", True)])
def test_a_task_that_only_the_other_was_scored_on_is_missing(missing: str, passes: bool) -> None:
    gate = Gate.model_validate({"missing": missing})
    a, b = side(right=80, of=100), side(right=80, of=100, piqa=50)
    passed, reasons = judged(gate, a, b)
    assert passed is passes
    assert "a@2 was not scored on it" in reasons["piqa"]


def test_a_task_that_only_the_candidate_was_scored_on_stands_in_nobodys_way() -> None:
    passed, reasons = judged(Gate(), side(right=80, of=100, piqa=50), side(right=80, of=100))
    assert passed
    assert "piqa" not in reasons


def test_a_suite_that_neither_was_scored_on_is_missing() -> None:
    passed, reasons = judged(Gate(suite=["mmlu"]), side(right=1, of=2), side(right=1, of=2))
    assert not passed
    assert reasons == {"mmlu": "neither a@2 nor b@1 was scored on it"}


def test_the_first_version_of_an_alias_passes() -> None:
    report = judge(Gate(), [], candidate="a@1", against=None)
    assert report.passed
    assert report.as_json()["checks"] == []


def test_many_tasks_are_not_each_given_a_chance_to_refuse() -> None:
    # Six questions lost and none won: p = 2 / 2^6 = 0.031 on its own, and twice that among two tasks.
    a, b = side(right=94, of=100, piqa=50), side(right=100, of=100, piqa=50)
    found = {item.task: item for item in held_against(a, b)}["answer_choice"]
    assert found.p_value == pytest.approx(2 / 2**6)
    assert not judged(Gate(suite=["answer_choice"]), a, b)[0]
    assert judged(Gate(suite=["answer_choice", "piqa"]), a, b)[0]


def test_items_that_are_gone_are_told_instead_of_a_number() -> None:
    a, b = side(right=1, of=2), side(right=1, of=2)
    rows = measured("a@2", a), measured("b@1", b, items_key=None)
    found = compare(pairs_of(*rows, a_name="a@2", b_name="b@1"), {"a@2": a}.get)
    assert {item.verdict for item in found} == {"not comparable"}
    assert found[0].reason is not None
    assert "b@1 are not kept" in found[0].reason
    assert found[0].difference is None


def test_the_newest_two_evaluations_that_asked_the_same_are_compared() -> None:
    old, new, other = side(right=2, of=10), side(right=9, of=10), side(right=2, of=10)
    ours = [*measured("new", new, key="new pack"), *measured("old", old, key="old pack")]
    theirs = measured("b@1", other, key="old pack")
    found = compare(pairs_of(ours, theirs, a_name="a", b_name="b@1"), {"new": new, "old": old, "b@1": other}.get)
    by_task = {item.task: item for item in found}
    assert by_task["answer_choice"].difference == 0.0


@pytest.mark.parametrize(
    "gate",
    [
        {"suite": []},
        {"against": "newest"},
        {"against": "name@0"},
        {"max_loss": -0.1},
        {"confidence": 1.0},
        {"missing": "maybe"},
        {"sweet": ["piqa"]},
    ],
)
def test_a_gate_that_means_nothing_is_refused(gate: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Gate.model_validate(gate)


def test_gates_are_by_alias() -> None:
    assert GATES.validate_python({"prod": {}}) == {"prod": Gate()}
    with pytest.raises(ValidationError):
        GATES.validate_python({"No Alias": {}})
