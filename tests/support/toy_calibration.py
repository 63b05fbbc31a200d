"""What calibration tests share: random windows, the toy model rounded to a grid, and how far it is from the float."""

import torch
from bitsmith_engine.models.architecture import units
from bitsmith_engine.models.opening import Base, load_float
from bitsmith_engine.nn.assembly import load_quantized
from bitsmith_engine.quant.plan import plan_layer, quantize_layer
from bitsmith_engine.quant.storage import Parameters, Rest
from bitsmith_engine.runtime import choose_runtime
from torch import Tensor
from toy_plans import four_and_two

RUNTIME = choose_runtime("cpu")


def toy_windows(count: int = 32, length: int = 64, *, seed: int = 0) -> Tensor:
    """Random tokens that are bytes, not special ones."""
    return torch.randint(3, 259, (count, length), generator=torch.Generator().manual_seed(seed))


def rounded(base: Base, *, bits: int = 2, high_channels: int = 0) -> Parameters:
    """Every layer rounded to nearest; with high_channels, its last input channels have four bits."""
    parameters: Parameters = {}
    for unit in units(base.config):
        for name in unit.layers:
            w_NK = base.weights.get(f"{name}.weight")
            K = w_NK.shape[1]
            plan = four_and_two(torch.arange(K - high_channels, K), K) if high_channels else plan_layer(bits, K)
            parameters |= {p.name: p for p in quantize_layer(name, w_NK, plan, clip_search=True)}
    return parameters


def divergence_from_float(base: Base, parameters: Parameters, rest: Rest, tokens_BT: Tensor) -> float:
    """Of the whole distributions, nats a token."""
    with torch.no_grad():
        log_p = load_float(base, RUNTIME)(input_ids=tokens_BT).logits.log_softmax(-1)
        log_q = load_quantized(base, parameters, RUNTIME, rest)(input_ids=tokens_BT).logits.log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
