"""What is scored, decided once for all models, so that their scores compare."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bitsmith_core.spec import Evaluation, MultipleChoice

from bitsmith_engine.data.examples import Example
from bitsmith_engine.evaluate.packs import Benchmark
from bitsmith_engine.ports import Observer

PERPLEXITY_VERSION = 1  # raise when a score on the same plan would change
CHOICE_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt and answers, one of which is its own. Each choice: token ids, and characters of its text."""

    prompt_ids: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    correct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    examples: tuple[Example, ...]  # for perplexity
    questions: tuple[Question, ...]  # empty if the spec asks for none
    benchmarks: tuple[Benchmark, ...] = ()

    @property
    def num_items(self) -> int:
        return len(self.examples) + len(self.questions) + sum(benchmark.num_docs for benchmark in self.benchmarks)

    @property
    def perplexity_key(self) -> str:
        tokens = [[example.ids, example.learned] for example in self.examples]
        return _digest("answer_perplexity", PERPLEXITY_VERSION, tokens)

    @property
    def choice_key(self) -> str:
        questions = [[question.prompt_ids, question.choices, question.correct] for question in self.questions]
        return _digest("answer_choice", CHOICE_VERSION, questions)


def make_plan(
    examples: Sequence[Example],
    settings: Evaluation,
    *,
    seed: int,
    observer: Observer,
    benchmarks: Sequence[Benchmark] = (),
) -> Plan:
    """Seeded samples of the validation examples, in file order, and the benchmarks as they were opened."""
    chance = random.Random(f"evaluation/{seed}")
    chosen = _sample(chance, len(examples), settings.perplexity_examples)
    questions: tuple[Question, ...] = ()
    if settings.multiple_choice is not None:
        questions = _questions(examples, settings.multiple_choice, chance, observer)
    return Plan(examples=tuple(examples[index] for index in chosen), questions=questions, benchmarks=tuple(benchmarks))


def _questions(
    examples: Sequence[Example], settings: MultipleChoice, chance: random.Random, observer: Observer
) -> tuple[Question, ...]:
    whole = [example for example in examples if not example.is_cut]
    answers: dict[str, tuple[int, ...]] = {example.answer: example.answer_ids for example in whole}
    if len(answers) < settings.choices:
        observer.note(
            "warn",
            f"multiple choice was left out: it needs {settings.choices} different answers, and the validation file "
            f"has {len(answers)} that fit max_length",
        )
        return ()

    questions = []
    texts = list(answers)
    for index in _sample(chance, len(whole), settings.questions):
        example = whole[index]
        others = chance.sample(texts, settings.choices)
        choices = [text for text in others if text != example.answer][: settings.choices - 1]
        correct = chance.randrange(settings.choices)
        choices.insert(correct, example.answer)
        questions.append(
            Question(
                prompt_ids=example.prompt_ids,
                choices=tuple(answers[text] for text in choices),
                lengths=tuple(len(text) for text in choices),
                correct=correct,
            )
        )
    if len(questions) < 2:
        observer.note("warn", "multiple choice was left out: it needs two validation examples that fit max_length")
        return ()
    return tuple(questions)


def _sample(chance: random.Random, population: int, count: int) -> list[int]:
    return sorted(chance.sample(range(population), min(count, population)))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
