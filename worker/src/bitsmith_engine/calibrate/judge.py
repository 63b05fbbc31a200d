"""Is a calibrated model nearer to the float one, on windows that it was not fitted to?

A fit of few windows can learn them by heart and move away on all others, so that what is reported on fitted windows
says nothing. Some windows are therefore only looked at, and of the stages of a calibration the one that is nearest on
them is kept.

Shape letters: B windows, T tokens per window, H hidden features, A places.
"""

import math
from typing import Any

import torch
from torch import Tensor

from bitsmith_engine.calibrate.end_to_end import summed_divergence
from bitsmith_engine.calibrate.steps import pass_windows
from bitsmith_engine.calibrate.teacher import Distribution, distributions
from bitsmith_engine.errors import Diverged
from bitsmith_engine.models.blocks import Blocks
from bitsmith_engine.runtime import Runtime

_SHARE = 16  # one window in so many is looked at
_LEAST_WINDOWS = 24  # of fewer, none can be spared


def split_windows(tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(windows to fit, windows to judge by); no judges where there are few windows."""
    judges = len(tokens_BT) // _SHARE if len(tokens_BT) >= _LEAST_WINDOWS else 0
    return tokens_BT[: len(tokens_BT) - judges], tokens_BT[len(tokens_BT) - judges :]


class Judge:
    """Holds the float model's distributions at every place of its windows."""

    @torch.no_grad()
    def __init__(self, blocks: Blocks, tokens_BT: Tensor, top_k: int, runtime: Runtime) -> None:
        self._places = tokens_BT.numel()
        self._tokens = [tokens_BT[windows].to(runtime.device) for windows in pass_windows(*tokens_BT.shape)]
        hidden = [blocks.embed(part_BT) for part_BT in self._tokens]
        for depth in range(len(blocks)):
            with blocks.layer(depth) as layer:
                hidden = [blocks.run(layer, hidden_BTH) for hidden_BTH in hidden]
        self._teacher = [_teacher(blocks, hidden_BTH.flatten(0, 1), top_k) for hidden_BTH in hidden]

    @torch.no_grad()
    def divergence(self, model: Any) -> float:
        """Mean divergence of the model's distributions from the float model's, nats a token.

        Raises:
            Diverged: it is NaN or infinite.
        """
        total = 0.0
        for part_BT, teacher in zip(self._tokens, self._teacher, strict=True):
            hidden_BTH = model.model(input_ids=part_BT, use_cache=False).last_hidden_state
            total += float(summed_divergence(model.lm_head, hidden_BTH.flatten(0, 1), teacher))
        if not math.isfinite(total):
            raise Diverged("the quantized model's outputs are not finite on held-out windows; check the base's weights")
        return total / self._places


def _teacher(blocks: Blocks, hidden_AH: Tensor, top_k: int) -> Distribution:
    kept = distributions(blocks, hidden_AH, top_k)
    return Distribution(*(torch.cat(part) for part in zip(*kept, strict=True)))
