"""The next token from the model's logits. Pure: one uniform number in, one token out, the same on every device.

    l_i  <-  l_i - presence * [c_i > 0] - frequency * c_i         c_i: how often token i was answered so far
    p     =  softmax(l / temperature)
    nucleus: the likeliest tokens whose probabilities before them sum to less than top_p; drawn from it

Sources: OpenAI's API reference (penalties), Holtzman et al. 2019, https://arxiv.org/abs/1904.09751 (nucleus).

Shape letters: V vocabulary.
"""

from collections.abc import Mapping

import torch
from bitsmith_core.chat import Sampling
from torch import Tensor


def choose(logits_V: Tensor, sampling: Sampling, counts: Mapping[int, int], uniform: float) -> int:
    """
    Args:
        counts: how often each token was answered so far.
        uniform: in [0, 1); ignored at temperature 0.
    """
    scores_V = penalized(logits_V.detach().to("cpu", torch.float32), sampling, counts)
    if sampling.temperature == 0:
        return int(scores_V.argmax())
    # float64: a low temperature makes large numbers of small differences.
    p_V = torch.softmax(scores_V.double() / sampling.temperature, dim=-1)
    sorted_V, token_V = p_V.sort(descending=True, stable=True)
    cumulative_V = sorted_V.cumsum(-1)
    kept = int((cumulative_V - sorted_V < sampling.top_p).sum())
    nucleus = cumulative_V[: max(1, kept)]
    index = int(torch.searchsorted(nucleus, uniform * nucleus[-1], right=True))
    return int(token_V[min(index, len(nucleus) - 1)])


def penalized(logits_V: Tensor, sampling: Sampling, counts: Mapping[int, int]) -> Tensor:
    if not counts or (sampling.presence_penalty == 0 and sampling.frequency_penalty == 0):
        return logits_V
    tokens = torch.tensor(list(counts))
    count = torch.tensor(list(counts.values()), dtype=torch.float32)
    return logits_V.index_add(0, tokens, -(sampling.presence_penalty + sampling.frequency_penalty * count))
