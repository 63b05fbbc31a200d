"""Multiple choice: which of several answers does the model find likeliest after this prompt?

An answer's score is its log-likelihood, the token that ends it included, divided by the characters of its text, so that
long answers are not at a disadvantage. A prompt is computed once for all its choices: they follow it in one row, and a
mask lets each see the prompt and itself only, at the positions it would have alone.

    row        p p p | a a | b b b        position  0 1 2 | 3 4 | 3 4 5

Shape letters: B rows, T tokens per row.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from bitsmith_core.bundle import ChoiceScores
from torch import Tensor

from bitsmith_engine.data.batching import by_length
from bitsmith_engine.errors import Diverged
from bitsmith_engine.evaluate.perplexity import BATCH_TOKENS
from bitsmith_engine.evaluate.plan import Question
from bitsmith_engine.models.forward import Places, hidden_at, token_losses
from bitsmith_engine.runtime import Runtime

_PROMPT = -1
_PADDING = -2


@torch.no_grad()
def choice_scores(model: Any, questions: Sequence[Question], runtime: Runtime) -> Iterator[dict[int, ChoiceScores]]:
    """Scores by position in `questions`, batch by batch.

    Raises:
        Diverged: a likelihood is NaN or infinite.
    """
    lengths = [len(question.prompt_ids) + sum(map(len, question.choices)) for question in questions]
    for indices in by_length(lengths, BATCH_TOKENS):
        chosen = [questions[index] for index in indices]
        sums = _log_likelihoods(model, chosen, runtime)
        yield {
            index: ChoiceScores(
                scores=[total / length for total, length in zip(totals, question.lengths, strict=True)],
                correct=question.correct,
            )
            for index, question, totals in zip(indices, chosen, sums, strict=True)
        }


def accuracy(items: Sequence[ChoiceScores]) -> tuple[float, float]:
    """(share of right answers, its standard error)."""
    n = len(items)
    share = sum(item.is_right for item in items) / n
    return share, (share * (1 - share) / (n - 1)) ** 0.5


def _log_likelihoods(model: Any, questions: Sequence[Question], runtime: Runtime) -> list[list[float]]:
    width = max(len(question.prompt_ids) + sum(map(len, question.choices)) for question in questions)
    tokens_BT = torch.zeros(len(questions), width, dtype=torch.long)
    position_BT = torch.zeros(len(questions), width, dtype=torch.long)
    segment_BT = torch.full((len(questions), width), _PADDING)
    places: list[tuple[int, int, int]] = []
    owners: list[tuple[int, int]] = []
    for row, question in enumerate(questions):
        prompt = len(question.prompt_ids)
        _write(tokens_BT, position_BT, segment_BT, row, 0, question.prompt_ids, first_position=0, segment=_PROMPT)
        start = prompt
        for number, choice in enumerate(question.choices):
            _write(tokens_BT, position_BT, segment_BT, row, start, choice, first_position=prompt, segment=number)
            for offset, token in enumerate(choice):
                # A choice's first token is predicted from the end of the prompt, wherever the choice stands.
                places.append((row, start + offset - 1 if offset else prompt - 1, token))
                owners.append((row, number))
            start += len(choice)

    columns = torch.tensor(places).T
    at = Places(columns[0], columns[1], columns[2]).to(runtime.device)
    mask_B1TT = _mask(segment_BT).to(runtime.device)
    hidden_AH = hidden_at(
        model, tokens_BT.to(runtime.device), at, mask_B1TT=mask_B1TT, position_BT=position_BT.to(runtime.device)
    )
    losses_A = token_losses(model, hidden_AH, at.target_A)
    if not bool(losses_A.isfinite().all()):
        raise Diverged("the model gives a choice no finite likelihood: its weights or activations overflowed")
    totals = [[0.0] * len(question.choices) for question in questions]
    for (row, number), loss in zip(owners, losses_A.tolist(), strict=True):
        totals[row][number] -= loss
    return totals


def _write(
    tokens_BT: Tensor,
    position_BT: Tensor,
    segment_BT: Tensor,
    row: int,
    start: int,
    ids: Sequence[int],
    *,
    first_position: int,
    segment: int,
) -> None:
    here = slice(start, start + len(ids))
    tokens_BT[row, here] = torch.tensor(ids)
    position_BT[row, here] = torch.arange(first_position, first_position + len(ids))
    segment_BT[row, here] = segment


def _mask(segment_BT: Tensor) -> Tensor:
    """True where a query (third axis) may look at a key (fourth): backwards, within its own segment or the prompt."""
    T = segment_BT.shape[1]
    is_backwards_TT = torch.ones(T, T, dtype=torch.bool).tril()
    is_same_BTT = segment_BT.unsqueeze(2) == segment_BT.unsqueeze(1)
    is_prompt_B1T = (segment_BT == _PROMPT).unsqueeze(1)
    return (is_backwards_TT & (is_same_BTT | is_prompt_B1T)).unsqueeze(1)
