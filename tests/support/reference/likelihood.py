"""Log-likelihoods one sequence at a time, with transformers' ordinary forward pass."""

from collections.abc import Sequence
from typing import Any

import torch


def answer_log_likelihood(model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> float:
    """log p(answer | prompt) in nats."""
    ids = torch.tensor([[*prompt_ids, *answer_ids]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=ids).logits.double(), dim=-1)
    start = len(prompt_ids)
    return sum(log_p[0, start + offset - 1, token].item() for offset, token in enumerate(answer_ids))
