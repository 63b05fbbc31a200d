"""AWQ: input channels that carry large activations are scaled up before rounding, and down again where they are made.

    W X = (W s)(X / s),    s_k = magnitude_k^alpha / sqrt(largest * smallest)

alpha is the best of 20 for the output error of all layers that share the input. Dividing X by s costs nothing when it
is folded into what makes X: the weight of a norm, the rows of up_proj for down_proj, the rows of v_proj for o_proj. The
last only where every query head has a value head of its own: a shared one cannot be divided for one and not the other.

With H = X^T X of the unscaled input, rounding W s to Q leaves the error (Q / s - W) H (Q / s - W)^T: the search needs
no activations, only their Gram matrix.

Shape letters: N output features, K input features, R rows looked at.
Source: Lin et al. 2023, https://arxiv.org/abs/2306.00978, sections 3.2 and 5.1 (which tries alpha on the outputs too).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bitsmith_engine.calibrate.gram import InputStatistics
from bitsmith_engine.nn.assembly import REST_DTYPE
from bitsmith_engine.quant.gptq import output_error
from bitsmith_engine.quant.parameter import dequantize_layer
from bitsmith_engine.quant.plan import LayerPlan, quantize_layer

_ALPHAS = tuple(step / 20 for step in range(20))
_QUIETEST = 1e-4  # of the loudest channel: quieter ones are taken to be as loud
_SEARCH_ROWS = 256  # of each layer, evenly spaced: the sum over more ranks the alphas the same


def search_scale(
    weights: Sequence[Tensor], statistics: InputStatistics, plans: Sequence[LayerPlan], *, clip_search: bool
) -> Tensor:
    """float32 (K,), positive: the scale of least output error for layers that share an input. All ones is one of those
    tried.

    Args:
        weights: float32 (N, K) of each layer, on the device of the statistics.
    """
    some_rows = [w_NK[:: max(1, -(-len(w_NK) // _SEARCH_ROWS))] for w_NK in weights]
    smallest = torch.finfo(torch.float32).tiny  # all inputs may be zero
    magnitude_K = (statistics.magnitude_K / statistics.magnitude_K.max().clamp(min=smallest)).clamp(min=_QUIETEST)

    best_error = float("inf")
    best_K = torch.ones_like(magnitude_K)
    for alpha in _ALPHAS:
        scale_K = magnitude_K**alpha
        scale_K = scale_K / (scale_K.max() * scale_K.min()).sqrt()
        error = sum(
            _error(w_RK, scale_K, statistics, plan, clip_search=clip_search)
            for w_RK, plan in zip(some_rows, plans, strict=True)
        )
        if error < best_error:
            best_error, best_K = error, scale_K
    return best_K


def scaled_importance(statistics: InputStatistics, scale_K: Tensor) -> Tensor:
    """What a squared error of each scaled input channel counts: the sum of the squares of X / s."""
    return statistics.gram_KK.diagonal() / scale_K.square()


def scale_layer(
    tensors: Mapping[str, Tensor],
    statistics: Mapping[str, InputStatistics],
    plans: Mapping[str, LayerPlan],
    *,
    shares_values: bool,
    clip_search: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fold the best scales into one decoder layer, which computes what it did before.

    Args:
        tensors: float32 parameters of the layer: all linear weights, both norms, and the biases there are.
        statistics: of the inputs of self_attn.q_proj, self_attn.o_proj, mlp.gate_proj and mlp.down_proj.
        plans: by path within the layer.
        shares_values: several query heads use one value head.

    Returns:
        The parameters that changed, and by path of the linear layer the importance of each input channel.
    """
    folded = dict(tensors)
    importances: dict[str, Tensor] = {}
    for producer, consumers in _FOLDS:
        source = statistics[consumers[0]]
        scale_K = torch.ones_like(source.magnitude_K)
        if producer != "self_attn.v_proj" or not shares_values:
            weights = [folded[f"{path}.weight"] for path in consumers]
            scale_K = search_scale(weights, source, [plans[path] for path in consumers], clip_search=clip_search)
            scale_K = _divide_output(folded, producer, scale_K)
        for path in consumers:
            folded[f"{path}.weight"] = folded[f"{path}.weight"] * scale_K
            importances[path] = scaled_importance(source, scale_K)
    changed = {name: tensor for name, tensor in folded.items() if tensor is not tensors[name]}
    return changed, importances


_FOLDS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)


def _divide_output(tensors: dict[str, Tensor], producer: str, scale_K: Tensor) -> Tensor:
    """Make the producer's output X / s; returns the s that this came to."""
    weight = tensors[f"{producer}.weight"]
    if weight.ndim == 1:
        # The scale is rounded so that the folded norm is exact in what it is stored in.
        divided_K = (weight / scale_K).to(REST_DTYPE).float()
        is_scaled_K = (divided_K != 0) & divided_K.isfinite()
        tensors[f"{producer}.weight"] = torch.where(is_scaled_K, divided_K, weight)
        return torch.where(is_scaled_K, weight / divided_K, 1.0)
    tensors[f"{producer}.weight"] = weight / scale_K.unsqueeze(-1)
    if f"{producer}.bias" in tensors:
        tensors[f"{producer}.bias"] = tensors[f"{producer}.bias"] / scale_K
    return scale_K


def _error(w_RK: Tensor, scale_K: Tensor, statistics: InputStatistics, plan: LayerPlan, *, clip_search: bool) -> float:
    importance_K = scaled_importance(statistics, scale_K)
    rounded = quantize_layer("", w_RK * scale_K, plan, clip_search=clip_search, importance_K=importance_K)
    return float(output_error(dequantize_layer(rounded, torch.float32) / scale_K - w_RK, statistics.gram_KK).sum())
