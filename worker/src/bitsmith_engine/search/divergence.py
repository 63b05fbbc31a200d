"""The damage of every unit as the divergence itself: one unit rounded, all others float.

    damage_b(u) = KL( float model || float model with unit u at b bits )      nats per answer token

What `fisher` approximates. It needs the whole float model, and time proportional to tokens * layers^2: the input of
every decoder layer is kept, so that a unit runs the layers from its own on. It is here to validate, and for models
small enough not to mind.

Shape letters: B rows, T tokens, H hidden features, A answer places, V vocabulary, N output features, K input features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bitsmith_engine.data.batching import Batch, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.architecture import Unit, units
from bitsmith_engine.models.opening import Base, CausalLM, load_float
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.search.rounding import Grid, rounded


@torch.no_grad()
def divergences(
    base: Base,
    examples: Sequence[Example],
    widths: Sequence[int],
    grid: Grid,
    runtime: Runtime,
    observer: Observer,
) -> dict[str, dict[int, float]]:
    """By unit and width.

    Raises:
        Stopped: between two units; what was measured so far is lost.
    """
    model = load_float(base, runtime)
    batch = collate(examples, runtime.device)
    inputs = _layer_inputs(model, batch)
    expected_AV = _log_probabilities(model, batch, inputs[-1])

    all_units = list(units(base.config))
    found: dict[str, dict[int, float]] = {}
    for done, unit in enumerate(all_units, start=1):
        found[unit.name] = {
            bits: _divergence(model, unit, bits, grid, batch, inputs[unit.depth], expected_AV) for bits in widths
        }
        observer.progress(done, len(all_units), {f"damage_{bits}": nats for bits, nats in found[unit.name].items()})
    return found


def _divergence(
    model: CausalLM, unit: Unit, bits: int, grid: Grid, batch: Batch, hidden_BTH: Tensor, expected_AV: Tensor
) -> float:
    originals = {name: model.get_submodule(name).weight.data for name in unit.layers}
    for name, w_NK in originals.items():
        model.get_submodule(name).weight.data = rounded(w_NK, bits, grid)
    actual_AV = _log_probabilities(model, batch, _run_layers(model, hidden_BTH, unit.depth))
    for name, w_NK in originals.items():
        model.get_submodule(name).weight.data = w_NK
    return F.kl_div(actual_AV, expected_AV, reduction="batchmean", log_target=True).item()


def _layer_inputs(model: CausalLM, batch: Batch) -> list[Tensor]:
    """The input of each decoder layer, and the output of the last."""
    hidden_BTH: Tensor = model.model.embed_tokens(batch.tokens_BT)
    inputs = [hidden_BTH]
    for depth in range(len(model.model.layers)):
        inputs.append(_run_layers(model, inputs[-1], depth, depth + 1))
    return inputs


def _run_layers(model: CausalLM, hidden_BTH: Tensor, start: int, stop: int | None = None) -> Tensor:
    """Decoder layers start .. stop on right-padded rows; attention is causal, so padding is never seen."""
    position_1T = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device).unsqueeze(0)
    rotary = model.model.rotary_emb(hidden_BTH, position_ids=position_1T)
    for layer in model.model.layers[start:stop]:
        hidden_BTH = layer(hidden_BTH, attention_mask=None, position_ids=position_1T, position_embeddings=rotary)
    return hidden_BTH


def _log_probabilities(model: CausalLM, batch: Batch, hidden_BTH: Tensor) -> Tensor:
    hidden_AH = model.model.norm(hidden_BTH[batch.row_A, batch.column_A])
    return F.log_softmax(model.lm_head(hidden_AH).float(), dim=-1)
