"""The damage of every unit at every width to second order, in two passes that hold one decoder layer at a time.

Rounding unit u changes its layers' outputs by dY = X dW^T, the logits by J dY, and the answer by

    KL(float || rounded) = 1/2 (J dY)^T F (J dY) + O(dY^3),     F = diag(p) - p p^T, the Fisher matrix of the softmax.

With signs z that are +1 or -1 at random for every answer place and token of the vocabulary, and c = sqrt(p) z the
gradient put into log p, the gradient that arrives at Y is g = J^T F^(1/2) z, so that

    (J dY)^T F (J dY) = E_z[ (g . dY)^2 ].

One backward pass per probe z therefore prices all layers at all widths: X and g are there, dY is one product. Summed
over the layers of a unit the products keep their signs, so what cancels between q, k and v cancels here.

Of the square of the sum over tokens only the squares are kept: errors of different tokens are taken as uncorrelated.

    damage_b(u) = 1/2 sum_t (sum over the unit's layers of g_t . dY_t)^2     averaged over probes, per answer token

With the products of different tokens the mean would be the whole second order, and the noise much larger. Measured on
a 135M model (120 units, 330 tokens, four probes; Spearman's correlation): two measurements agree to 0.98, with the
products to 0.88; both against the divergence itself, 0.94, 0.97 and 0.95 at 2, 3 and 4 bits, with the products 0.92,
0.91 and 0.94. Allocations from these damages lose 2 to 5 % more than from measured divergences. Relative errors of the
outputs rank to 0.6 at best, errors of the weights to 0.5.

By input channel k only the diagonal is kept, E[g_n^2 x_k^2] for the weight (n, k):

    damage_k = 1/2 sum_n dW_nk^2 sum_t g_tn^2 x_tk^2     per answer token

The first pass goes up and keeps the input of each layer (tokens * layers * hidden features, on the CPU); the second
goes down, computes each layer again and hands g to the layer below. Nothing grows with the size of the model but that.

Sources: the Gauss-Newton/Fisher form, Martens 2020, https://arxiv.org/abs/1412.1193, sections 8-9; random signs,
Hutchinson 1990.

Shape letters: B rows, T tokens, H hidden features, A answer places, N output features, K input features, P probes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bitsmith_engine.data.batching import Batch, by_length, collate
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.architecture import Unit, units
from bitsmith_engine.models.blocks import Blocks, DecoderLayer
from bitsmith_engine.models.opening import Base
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime, generator
from bitsmith_engine.search.rounding import Grid, rounded
from bitsmith_engine.search.sensitivity import LayerShape, UnitSensitivity

PROBES = 4
_BATCH_TOKENS = 1024  # padded tokens whose activations of one decoder layer are in memory at once
_CHUNK_PLACES = 256  # logits of this many places at once


@dataclass(frozen=True, slots=True)
class _Seen:
    """One linear layer in one batch: what went in, and the gradient at what came out, probe by probe."""

    x_BTK: Tensor
    g_PBTN: Tensor


def second_order(
    base: Base,
    examples: Sequence[Example],
    widths: Sequence[int],
    grid: Grid,
    runtime: Runtime,
    observer: Observer,
    *,
    seed: int,
    probes: int = PROBES,
) -> tuple[list[UnitSensitivity], dict[str, dict[int, Tensor]]]:
    """Every unit, and the damage of every input channel by layer and width (on the CPU).

    Args:
        probes: random signs drawn for every answer place; the noise falls with their number, the time grows with it.

    Raises:
        Stopped: between two decoder layers; what was measured so far is lost.
    """
    blocks = Blocks(base, runtime)
    batches = [
        collate([examples[index] for index in rows], runtime.device)
        for rows in by_length([len(example.ids) for example in examples], _BATCH_TOKENS)
    ]
    draws = probes * sum(batch.num_learned for batch in batches)
    steps = 2 * len(blocks)

    inputs: list[list[Tensor]] = []  # by depth, by batch; on the CPU
    with torch.no_grad():
        hidden = [blocks.embed(batch.tokens_BT) for batch in batches]
        for depth in range(len(blocks)):
            inputs.append([hidden_BTH.cpu() for hidden_BTH in hidden])
            with blocks.layer(depth) as layer:
                hidden = [blocks.run(layer, hidden_BTH) for hidden_BTH in hidden]
            observer.progress(depth + 1, steps)
    signs = generator(seed)
    gradients = [_gradients_of_output(blocks, *pair, signs, probes) for pair in zip(batches, hidden, strict=True)]
    del hidden

    by_depth: dict[int, list[Unit]] = {}
    for unit in units(base.config):
        by_depth.setdefault(unit.depth, []).append(unit)
    found: list[UnitSensitivity] = []
    channels: dict[str, dict[int, Tensor]] = {}
    for depth in reversed(range(len(blocks))):
        with blocks.layer(depth) as layer:
            seen: list[dict[str, _Seen]] = []
            for index, hidden_BTH in enumerate(inputs.pop()):
                gradients[index], of_linears = _differentiate(
                    blocks, layer, by_depth[depth], hidden_BTH.to(runtime.device), gradients[index]
                )
                seen.append(of_linears)
            for unit in reversed(by_depth[depth]):
                sensitivity, channels_of_unit = _price(layer, unit, seen, widths, grid, draws)
                found.append(sensitivity)
                channels |= channels_of_unit
        observer.progress(steps - depth, steps)
    return list(reversed(found)), channels


def _gradients_of_output(
    blocks: Blocks, batch: Batch, hidden_BTH: Tensor, signs: torch.Generator, probes: int
) -> Tensor:
    """F^(1/2) z of every answer place, taken back to the output of the last decoder layer: (P, B, T, H)."""
    gradient_PBTH = torch.zeros(probes, *hidden_BTH.shape, dtype=hidden_BTH.dtype, device=hidden_BTH.device)
    for start in range(0, batch.num_learned, _CHUNK_PLACES):
        here = slice(start, start + _CHUNK_PLACES)
        row_A, column_A = batch.row_A[here], batch.column_A[here]
        hidden_AH = hidden_BTH[row_A, column_A].detach().requires_grad_()
        log_p_AV = blocks.log_probabilities(hidden_AH)
        root_AV = (log_p_AV.detach() / 2).exp()
        for probe in range(probes):
            z_AV = torch.randint(0, 2, root_AV.shape, generator=signs, dtype=torch.int8).to(root_AV.device) * 2 - 1
            (gradient_AH,) = torch.autograd.grad(log_p_AV, hidden_AH, root_AV * z_AV, retain_graph=probe < probes - 1)
            gradient_PBTH[probe, row_A, column_A] = gradient_AH
    return gradient_PBTH


def _differentiate(
    blocks: Blocks, layer: DecoderLayer, layer_units: Sequence[Unit], hidden_BTH: Tensor, gradient_PBTH: Tensor
) -> tuple[Tensor, dict[str, _Seen]]:
    """The gradient at the decoder layer's input, and what its linear layers saw."""
    names = [name for unit in layer_units for name in unit.layers]
    x: dict[str, Tensor] = {}
    y: dict[str, Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(_: object, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            x[name], y[name] = arguments[0].detach(), output

        handle: torch.utils.hooks.RemovableHandle = _linear(layer, name).register_forward_hook(keep)
        return handle

    handles = [watch(name) for name in names]
    hidden_BTH = hidden_BTH.requires_grad_()
    out_BTH = blocks.run(layer, hidden_BTH)
    for handle in handles:
        handle.remove()

    wanted = [hidden_BTH, *(y[name] for name in names)]
    by_probe = [
        torch.autograd.grad(out_BTH, wanted, gradient_BTH, retain_graph=probe < len(gradient_PBTH) - 1)
        for probe, gradient_BTH in enumerate(gradient_PBTH)
    ]
    below_PBTH, *at_outputs = [torch.stack(gradients) for gradients in zip(*by_probe, strict=True)]
    seen = {name: _Seen(x[name], g_PBTN) for name, g_PBTN in zip(names, at_outputs, strict=True)}
    return below_PBTH, seen


def _price(
    layer: DecoderLayer,
    unit: Unit,
    seen: Sequence[dict[str, _Seen]],
    widths: Sequence[int],
    grid: Grid,
    draws: int,
) -> tuple[UnitSensitivity, dict[str, dict[int, Tensor]]]:
    """The unit and its layers' input channels. `seen` is by batch; `draws` are answer places times probes."""
    weight_errors = dict.fromkeys(widths, 0.0)
    products: dict[int, list[Tensor]] = {}  # by width, by batch: g . dY summed over layers so far, (P, B, T)
    shapes: list[LayerShape] = []
    channels: dict[str, dict[int, Tensor]] = {}
    for name in unit.layers:
        w_NK = _linear(layer, name).weight.data
        N, K = w_NK.shape
        shapes.append(LayerShape(name=name, output_features=N, input_features=K))
        batches = [of_linears[name] for of_linears in seen]
        fisher_NK = torch.zeros(N, K, device=w_NK.device)
        for batch in batches:
            fisher_NK += _diagonal(batch)

        channels[name] = {}
        for bits in widths:
            error_NK = rounded(w_NK.float(), bits, grid) - w_NK.float()
            own = [_product(batch, error_NK) for batch in batches]
            products[bits] = (
                [before + now for before, now in zip(products[bits], own, strict=True)] if bits in products else own
            )
            error_NK.square_()
            weight_errors[bits] += error_NK.sum().item()
            channels[name][bits] = error_NK.mul_(fisher_NK).sum(0).div_(2 * draws).cpu()

    damages = {
        bits: sum(product_PBT.square().sum().item() for product_PBT in of_width) / (2 * draws)
        for bits, of_width in products.items()
    }
    sensitivity = UnitSensitivity(name=unit.name, layers=tuple(shapes), damages=damages, weight_errors=weight_errors)
    return sensitivity, channels


def _product(seen: _Seen, error_NK: Tensor) -> Tensor:
    """g . dY for each probe and token, float32 (P, B, T)."""
    change_BTN = seen.x_BTK.float() @ error_NK.T
    return (seen.g_PBTN.float() * change_BTN).sum(-1)


def _diagonal(seen: _Seen) -> Tensor:
    """sum_t g_tn^2 x_tk^2 over the probes, float32 (N, K)."""
    g2_TN = seen.g_PBTN.float().square().sum(0).flatten(0, 1)
    return g2_TN.T @ seen.x_BTK.float().square().flatten(0, 1)


def _linear(layer: DecoderLayer, name: str) -> nn.Linear:
    """By its module path in the causal LM, model.layers.<depth>.<path>."""
    linear: nn.Linear = layer.get_submodule(name.split(".", 3)[3])
    return linear
