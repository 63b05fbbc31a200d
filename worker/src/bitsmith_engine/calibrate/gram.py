"""What the linear layers of a decoder layer see: Gram matrices of their inputs, and how large each channel is.

    gram = sum over tokens of x x^T,    magnitude = mean over tokens of |x|

q, k and v share one input, and so do gate and up: one of the layers that share it is named and stands for all.

Shape letters: B windows, T tokens per window (all tokens where alone), H hidden features, K features of an input.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitsmith_engine.errors import BadModel

_TOKENS_AT_A_TIME = 4096  # in float32: a copy of the activations larger than this is never made


@dataclass(slots=True, kw_only=True)
class InputStatistics:
    gram_KK: Tensor  # float32, on the device of the activations
    magnitude_K: Tensor  # float32


class _Seen(Exception):  # not an error: what was wanted is there, so that the rest need not be computed
    pass


@torch.no_grad()
def input_statistics(
    layer: nn.Module,
    paths: Sequence[str],
    batches_BTH: Iterable[Tensor],
    run: Callable[[Any, Tensor], Tensor],
) -> dict[str, InputStatistics]:
    """Of the inputs that these linear layers get while `run(layer, hidden)` computes a decoder layer on every batch.

    Each pass ends as soon as the last of them has been reached.

    Args:
        paths: submodules of the layer.

    Raises:
        BadModel: an input is NaN or infinite.
    """
    collectors = {path: _Collector(layer.get_submodule(path)) for path in paths}
    pending: set[str] = set()

    def listener(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            collectors[path].add(inputs[0])
            pending.discard(path)
            if not pending:
                raise _Seen

        return hook

    handles = [layer.get_submodule(path).register_forward_pre_hook(listener(path)) for path in paths]
    try:
        for hidden_BTH in batches_BTH:
            pending.update(paths)
            try:
                run(layer, hidden_BTH)
            except _Seen:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return {path: collector.finish(path) for path, collector in collectors.items()}


class _Collector:
    def __init__(self, linear: nn.Module) -> None:
        K = int(linear.in_features)  # type: ignore[arg-type]  # of nn.Linear, or of what stands in for it
        self._gram_KK = torch.zeros(K, K)
        self._magnitude_K = torch.zeros(K)
        self._tokens = 0

    def add(self, input_BTK: Tensor) -> None:
        self._gram_KK = self._gram_KK.to(input_BTK.device)
        self._magnitude_K = self._magnitude_K.to(input_BTK.device)
        for x_TK in torch.split(input_BTK.detach().flatten(0, -2), _TOKENS_AT_A_TIME):
            x_TK = x_TK.float()
            self._gram_KK.addmm_(x_TK.T, x_TK)
            self._magnitude_K += x_TK.abs().sum(0)
            self._tokens += len(x_TK)

    def finish(self, path: str) -> InputStatistics:
        if not self._gram_KK.isfinite().all():
            raise BadModel(
                f"the inputs of {path} are infinite or not a number on the calibration text; set "
                "quantization.initial to rtn or hqq, which need none, or use another base"
            )
        return InputStatistics(gram_KK=self._gram_KK, magnitude_K=self._magnitude_K / max(1, self._tokens))
