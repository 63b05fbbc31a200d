"""What two bits instead of four would cost each unit of layers.

    damage_2(u) = KL( float model || float model with unit u at 2 bits )      nats per answer token
    damage_4(u) = damage_2(u) * error_4(u) / error_2(u)                       not measured

error_b is the squared error of the unit's weights at b bits. For small errors the divergence is quadratic in the error
of the weights, so that the ratio carries over; it is about 1/14, and a second measurement would double the time for a
correction of that size.

The inputs of every decoder layer are kept from one pass of the float model, so that measuring a unit runs only the
layers from its own on (tokens * layers * hidden features * 4 bytes). The examples are the first calibration_samples of
a seeded shuffle, and no more than CALIBRATION_TOKENS tokens of them: the time is proportional to tokens * layers^2, and
the ranking of units settles long before the value of each.

Shape letters: B rows, T tokens, H hidden features, A answer places, V vocabulary.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from bitsmith_engine.data.batching import Batch, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.architecture import Unit
from bitsmith_engine.ports import Observer
from bitsmith_engine.quant.affine import quantize
from bitsmith_engine.quant.parameter import QuantParameter
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.runtime import Runtime

CALIBRATION_TOKENS = 512


class UnitSensitivity(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    weights: int
    damage_2: float  # nats per token, measured
    damage_4: float  # nats per token, derived

    @property
    def gain(self) -> float:
        """What four bits save over two."""
        return max(0.0, self.damage_2 - self.damage_4)


def choose_calibration(examples: Sequence[Example], samples: int, *, seed: int) -> list[Example]:
    """At least one example; then as many of a seeded shuffle as fit both limits."""
    order = random.Random(f"calibration/{seed}").sample(range(len(examples)), min(samples, len(examples)))
    chosen = [examples[order[0]]]
    for index in order[1:]:
        if sum(len(example.ids) for example in chosen) + len(examples[index].ids) <= CALIBRATION_TOKENS:
            chosen.append(examples[index])
    return chosen


@torch.no_grad()
def measure(
    model: Any,
    units: Sequence[Unit],
    examples: Sequence[Example],
    runtime: Runtime,
    observer: Observer,
    *,
    clip_search: bool,
) -> list[UnitSensitivity]:
    """Measure every unit of a float model. Its weights are changed on the way and restored.

    Raises:
        Stopped: between two units; the model is whole then.
    """
    batch = collate(examples, runtime.device)
    inputs = _layer_inputs(model, batch)
    expected_AV = _log_probabilities(model, batch, inputs[-1])

    found = []
    for done, unit in enumerate(units, start=1):
        originals = {name: model.get_submodule(name).weight.data for name in unit.layers}
        errors = _to_two_bits(model, originals, clip_search=clip_search)
        hidden_BTH = _run_layers(model, inputs[unit.depth], unit.depth)
        actual_AV = _log_probabilities(model, batch, hidden_BTH)
        divergence = F.kl_div(actual_AV, expected_AV, reduction="batchmean", log_target=True)
        for name, weight in originals.items():
            model.get_submodule(name).weight.data = weight

        damage_2 = divergence.item()
        weights = sum(weight.numel() for weight in originals.values())
        found.append(UnitSensitivity(name=unit.name, weights=weights, damage_2=damage_2, damage_4=damage_2 * errors))
        observer.progress(done, len(units), {"damage_2": damage_2})
    return found


def _to_two_bits(model: Any, originals: dict[str, Tensor], *, clip_search: bool) -> float:
    """Replace the weights by their two-bit values; returns squared error at four bits / squared error at two."""
    errors = {2: 0.0, 4: 0.0}
    for name, weight in originals.items():
        for bits in errors:
            scheme = scheme_for(bits, weight.shape[1])
            # At four bits the search gains little and would cost as much as at two.
            affine = quantize(weight, scheme, clip_search=clip_search and bits == 2)
            w_hat_NK = QuantParameter(name, scheme, affine).dequantize(weight.dtype)
            errors[bits] += (w_hat_NK - weight).float().square().sum().item()
            if bits == 2:
                model.get_submodule(name).weight.data = w_hat_NK
    return errors[4] / errors[2] if errors[2] else 0.0


def _layer_inputs(model: Any, batch: Batch) -> list[Tensor]:
    """The input of each decoder layer, and the output of the last."""
    hidden_BTH: Tensor = model.model.embed_tokens(batch.tokens_BT)
    inputs = [hidden_BTH]
    for depth in range(len(model.model.layers)):
        inputs.append(_run_layers(model, inputs[-1], depth, depth + 1))
    return inputs


def _run_layers(model: Any, hidden_BTH: Tensor, start: int, stop: int | None = None) -> Tensor:
    """Decoder layers start .. stop on right-padded rows; attention is causal, so padding is never seen."""
    position_1T = torch.arange(hidden_BTH.shape[1], device=hidden_BTH.device).unsqueeze(0)
    rotary = model.model.rotary_emb(hidden_BTH, position_ids=position_1T)
    for layer in model.model.layers[start:stop]:
        hidden_BTH = layer(hidden_BTH, attention_mask=None, position_ids=position_1T, position_embeddings=rotary)
    return hidden_BTH


def _log_probabilities(model: Any, batch: Batch, hidden_BTH: Tensor) -> Tensor:
    hidden_AH = model.model.norm(hidden_BTH[batch.row_A, batch.column_A])
    return F.log_softmax(model.lm_head(hidden_AH).float(), dim=-1)
