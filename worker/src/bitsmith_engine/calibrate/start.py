"""The first codes of every layer, by one of four methods.

rtn and hqq look at weights only, which are read and dropped one linear layer at a time. awq and gptq also look at what
the layers see on a little text. They go through the model one decoder layer at a time, and each layer sees what the
already quantized layers before it make of the text, so that it can make good for some of their errors. Within a decoder
layer gptq does the same from unit to unit. In memory: the embedding, one decoder layer, and one hidden state a token.

Shape letters: B windows, T tokens per window, H hidden features, N output features, K input features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from bitsmith_core.spec.quantization import InitialCodes
from torch import Tensor

from bitsmith_engine.calibrate.awq import scale_layer
from bitsmith_engine.calibrate.gram import input_statistics
from bitsmith_engine.calibrate.steps import pass_windows
from bitsmith_engine.calibrate.windows import layer_windows
from bitsmith_engine.models.architecture import Unit, units
from bitsmith_engine.models.blocks import Blocks, DecoderLayer
from bitsmith_engine.models.opening import Base, build_empty, put
from bitsmith_engine.ports import Observer, Silent
from bitsmith_engine.quant.affine import Affine
from bitsmith_engine.quant.gptq import gptq_blocks
from bitsmith_engine.quant.hqq import hqq
from bitsmith_engine.quant.parameter import QuantParameter, dequantize_layer
from bitsmith_engine.quant.plan import LayerPlan, Plans, plan_layer, quantize_layer
from bitsmith_engine.quant.storage import Parameters, Rest
from bitsmith_engine.runtime import Runtime


@torch.no_grad()
def start_codes(
    base: Base,
    plans: Mapping[str, LayerPlan],
    tokens_BT: Tensor,
    method: InitialCodes,
    runtime: Runtime,
    observer: Observer,
    *,
    clip_search: bool,
) -> tuple[Parameters, Rest]:
    """The parameters, on the runtime's device and in the order of the plans, and what changed of the rest (on the CPU).

    Args:
        plans: of every linear layer of every unit, by module path.
        tokens_BT: int64; rtn and hqq do not look at them, awq and gptq at the first of them (layer_windows).

    Raises:
        BadModel: a weight, or an input of a layer, is NaN or infinite.
        Stopped: by the observer, after any layer; nothing is kept.
    """
    if method in ("rtn", "hqq"):
        return _from_weights(base, plans, method, runtime, observer, clip_search=clip_search), {}
    walk = _Walk(base, plans, layer_windows(base, tokens_BT), runtime, clip_search=clip_search)
    parameters: Parameters = {}
    rest: Rest = {}
    for depth in range(walk.num_layers):
        made, changed = walk.gptq_layer(depth) if method == "gptq" else walk.awq_layer(depth)
        parameters |= made
        rest |= changed
        observer.progress(depth + 1, walk.num_layers)
    return {parameter.name: parameter for parameter in _in_order(parameters, plans)}, rest


def uniform_plans(base: Base, bits: int, *, group_size: int | None = None, symmetric: bool = False) -> Plans:
    """One width for every linear layer."""
    shapes = build_empty(base.config)
    return {
        name: plan_layer(bits, shapes.get_submodule(name).in_features, group_size=group_size, symmetric=symmetric)
        for unit in units(base.config)
        for name in unit.layers
    }


def round_base(base: Base, bits: int, runtime: Runtime) -> Parameters:
    """The simplest start: one width, round to nearest with clip search, no text."""
    nothing_BT = torch.empty(0, 0, dtype=torch.int64)
    parameters, _ = start_codes(base, uniform_plans(base, bits), nothing_BT, "rtn", runtime, Silent(), clip_search=True)
    return parameters


def start_weights(base: Base, parameters: Parameters, method: InitialCodes) -> Callable[[str], Tensor]:
    """What the first codes of a parameter stand for, by its name: the weights whose rounding residual is theirs.

    rtn and hqq rounded the base's weights. gptq and awq rounded others, which nobody kept (compensated for earlier
    errors, scaled): the distance to the base's would send codes back that were moved on purpose, so theirs is none.
    """

    def read(name: str) -> Tensor:
        parameter = parameters[name]
        if method in ("rtn", "hqq"):
            return parameter.take_columns(base.weights.get(f"{parameter.layer_name}.weight"))
        return parameter.dequantize(torch.float32)

    return read


def _from_weights(
    base: Base,
    plans: Mapping[str, LayerPlan],
    method: InitialCodes,
    runtime: Runtime,
    observer: Observer,
    *,
    clip_search: bool,
) -> Parameters:
    parameters: Parameters = {}
    for done, (name, plan) in enumerate(plans.items(), start=1):
        w_NK = base.weights.get(f"{name}.weight").to(runtime.device)
        rounded = (
            _hqq_layer(name, w_NK, plan, clip_search=clip_search)
            if method == "hqq"
            else quantize_layer(name, w_NK, plan, clip_search=clip_search)
        )
        parameters |= {parameter.name: parameter for parameter in rounded}
        observer.progress(done, len(plans))
    return parameters


def _hqq_layer(name: str, w_NK: Tensor, plan: LayerPlan, *, clip_search: bool) -> list[QuantParameter]:
    parameters = []
    for block_name, scheme, columns_K in plan.blocks(name):
        own_NK = w_NK if columns_K is None else w_NK[:, columns_K]
        affine = hqq(own_NK, scheme, clip_search=clip_search, name=block_name)
        parameters.append(QuantParameter(block_name, scheme, affine, columns_K))
    return parameters


class _Walk:
    """From the embedding upwards; the hidden states are those of the layers as quantized so far."""

    def __init__(
        self,
        base: Base,
        plans: Mapping[str, LayerPlan],
        tokens_BT: Tensor,
        runtime: Runtime,
        *,
        clip_search: bool,
    ) -> None:
        self._base = base
        self._plans = plans
        self._runtime = runtime
        self._clip_search = clip_search
        self._units = list(units(base.config))
        self._blocks = Blocks(base, runtime)
        self._hidden_BTH = self._blocks.embed(tokens_BT.to(runtime.device))
        self.num_layers = len(self._blocks)

    def gptq_layer(self, depth: int) -> tuple[Parameters, Rest]:
        made: Parameters = {}
        with self._blocks.layer(depth) as layer:
            for unit in self._units_at(depth):
                members = [_within(name, depth) for name in unit.layers]
                seen = input_statistics(layer, members[:1], self._batches(), self._blocks.run)[members[0]]
                weights = {name: self._read(f"{name}.weight") for name in unit.layers}
                for name, parameters in self._gptq_unit(unit, weights, seen.gram_KK).items():
                    made |= {parameter.name: parameter for parameter in parameters}
                    self._put(layer, f"{_within(name, depth)}.weight", dequantize_layer(parameters, torch.float32))
            self._advance(layer)
        return made, {}

    def awq_layer(self, depth: int) -> tuple[Parameters, Rest]:
        made: Parameters = {}
        members = {_within(name, depth): name for unit in self._units_at(depth) for name in unit.layers}
        first = [_within(unit.layers[0], depth) for unit in self._units_at(depth)]
        config = self._base.config
        with self._blocks.layer(depth) as layer:
            statistics = input_statistics(layer, first, self._batches(), self._blocks.run)
            tensors = {name: self._read(f"model.layers.{depth}.{name}") for name, _ in layer.named_parameters()}
            changed, importances = scale_layer(
                tensors,
                statistics,
                {path: self._plans[name] for path, name in members.items()},
                shares_values=config.num_key_value_heads != config.num_attention_heads,
                clip_search=self._clip_search,
            )
            rest = {
                f"model.layers.{depth}.{name}": tensor.cpu()
                for name, tensor in changed.items()
                if name.removesuffix(".weight") not in members
            }
            for name, tensor in changed.items():
                self._put(layer, name, tensor)
            for path, name in members.items():
                w_NK = changed.get(f"{path}.weight", tensors[f"{path}.weight"])
                parameters = quantize_layer(
                    name, w_NK, self._plans[name], clip_search=self._clip_search, importance_K=importances[path]
                )
                made |= {parameter.name: parameter for parameter in parameters}
                self._put(layer, f"{path}.weight", dequantize_layer(parameters, torch.float32))
            self._advance(layer)
        return made, rest

    def _gptq_unit(self, unit: Unit, weights: Mapping[str, Tensor], gram_KK: Tensor) -> dict[str, list[QuantParameter]]:
        found = {}
        for names in _alike(unit.layers, self._plans):
            # Rows are independent, so that layers with one input and one plan are one tall matrix: one factorization.
            plan = self._plans[names[0]]
            parts = gptq_blocks(
                torch.cat([weights[name] for name in names]),
                gram_KK,
                plan.schemes,
                plan.columns,
                clip_search=self._clip_search,
            )
            first_row = 0
            for name in names:
                rows = slice(first_row, first_row + len(weights[name]))
                first_row = rows.stop
                found[name] = [
                    QuantParameter(
                        block_name,
                        scheme,
                        Affine(*(tensor[rows].contiguous() for tensor in part)),
                        columns_K,
                    )
                    for part, (block_name, scheme, columns_K) in zip(parts, plan.blocks(name), strict=True)
                ]
        return found

    def _units_at(self, depth: int) -> list[Unit]:
        return [unit for unit in self._units if unit.depth == depth]

    def _batches(self) -> list[Tensor]:
        B, T, _ = self._hidden_BTH.shape
        return [self._hidden_BTH[windows] for windows in pass_windows(B, T)]

    def _advance(self, layer: DecoderLayer) -> None:
        for hidden_BTH in self._batches():
            hidden_BTH.copy_(self._blocks.run(layer, hidden_BTH))

    def _read(self, name: str) -> Tensor:
        return self._base.weights.get(name).to(self._runtime.device, torch.float32)

    def _put(self, layer: DecoderLayer, name: str, tensor: Tensor) -> None:
        put(layer, name, tensor.to(self._runtime.compute_dtype))


def _within(name: str, depth: int) -> str:
    return name.removeprefix(f"model.layers.{depth}.")


def _alike(names: Sequence[str], plans: Mapping[str, LayerPlan]) -> list[list[str]]:
    """The layers in groups of equal plans."""
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if _is_same(plans[group[0]], plans[name]):
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


def _is_same(one: LayerPlan, other: LayerPlan) -> bool:
    return one.schemes == other.schemes and all(
        (ours is None and theirs is None) or (ours is not None and theirs is not None and torch.equal(ours, theirs))
        for ours, theirs in zip(one.columns, other.columns, strict=True)
    )


def _in_order(parameters: Parameters, plans: Mapping[str, LayerPlan]) -> Iterator[QuantParameter]:
    for name, plan in plans.items():
        for block_name, _, _ in plan.blocks(name):
            yield parameters[block_name]
