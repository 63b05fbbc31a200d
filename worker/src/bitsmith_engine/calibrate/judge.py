"""Is a calibrated model nearer to the float one, on windows that it was not fitted to?

A fit of few windows can learn them by heart and move away on all others, so that what is reported on fitted windows
says nothing. Some windows are therefore only looked at, and of the stages of a calibration the one that is nearest on
them is kept.

Shape letters: B windows, T tokens per window, H hidden features, A places.
"""

from typing import Any

import torch
from torch import Tensor

from bitsmith_engine.calibrate.end_to_end import summed_divergence
from bitsmith_engine.calibrate.teacher import Distribution, keep_top
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.runtime import Runtime

_SHARE = 16  # one window in so many is looked at
_LEAST_WINDOWS = 24  # of fewer, none can be spared
_PLACES_AT_ONCE = 512  # logits of so many: 100 MB of float32 at a vocabulary of 49 152


def split_windows(tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(windows to fit, windows to judge by); no judges where there are few windows."""
    judges = len(tokens_BT) // _SHARE if len(tokens_BT) >= _LEAST_WINDOWS else 0
    return tokens_BT[: len(tokens_BT) - judges], tokens_BT[len(tokens_BT) - judges :]


class Judge:
    """Holds the float model's distributions at every place of its windows."""

    @torch.no_grad()
    def __init__(self, blocks: Blocks, tokens_BT: Tensor, top_k: int, runtime: Runtime) -> None:
        self._tokens_BT = tokens_BT.to(runtime.device)
        hidden_BTH = blocks.embed(self._tokens_BT)
        for depth in range(len(blocks)):
            with blocks.layer(depth) as layer:
                hidden_BTH = blocks.run(layer, hidden_BTH)
        places = torch.split(hidden_BTH.flatten(0, 1), _PLACES_AT_ONCE)
        kept = [keep_top(blocks.log_probabilities(hidden_AH), top_k) for hidden_AH in places]
        self._teacher = Distribution(*(torch.cat(part) for part in zip(*kept, strict=True)))

    @torch.no_grad()
    def divergence(self, model: Any) -> float:
        """Mean divergence of the model's distributions from the float model's, nats a token."""
        hidden_BTH = model.model(input_ids=self._tokens_BT, use_cache=False).last_hidden_state
        hidden_AH = hidden_BTH.flatten(0, 1)
        total = summed_divergence(model.lm_head, hidden_AH, self._teacher, places_at_once=_PLACES_AT_ONCE)
        return float(total) / len(hidden_AH)
