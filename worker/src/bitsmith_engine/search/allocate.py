"""A width for each unit under a budget, so that the sum of the damages is the least possible.

The budget is either the mean of the code bits, as model names in the field count (`bpw`), or bytes of codes, scales and
zero points as they are stored. Damages of units are taken as additive: each was measured with all others float.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import floor

from bitsmith_engine.errors import BadSpec
from bitsmith_engine.quant.plan import Plans, plan_layer
from bitsmith_engine.quant.scheme import scheme_for
from bitsmith_engine.quant.storage import packed_size
from bitsmith_engine.search.knapsack import Choice, Option, solve
from bitsmith_engine.search.sensitivity import LayerShape, Sensitivity, UnitSensitivity


def allocate(units: Sequence[UnitSensitivity], *, bpw: float, widths: Iterable[int]) -> dict[str, int]:
    """Bits per unit with the least total damage whose mean over all weights is at most bpw.

    Raises:
        BadSpec: a width was not measured, or bpw is below all of them.
    """
    sizes = {unit.name: {bits: bits * unit.weights for bits in _measured(units, widths)} for unit in units}
    # The decimal number that was written, not the float nearest to it: 3.3 bits of ten weights are 33 bits.
    capacity = floor(Fraction(repr(float(bpw))) * sum(unit.weights for unit in units))
    return _choose(units, sizes, capacity, f"bpw {bpw} is below the narrowest width; raise it to {{}} bits in all")


def allocate_bytes(sensitivity: Sensitivity, *, budget_bytes: int, widths: Iterable[int]) -> dict[str, int]:
    """Bits per unit with the least total damage whose codes, scales and zero points are at most budget_bytes.

    Raises:
        BadSpec: a width was not measured, or even the smallest choice is larger; the message says how large.
    """
    units = sensitivity.units
    sizes = {
        unit.name: {
            bits: sum(
                stored_bytes(layer, bits, group_size=sensitivity.group_size, symmetric=sensitivity.symmetric)
                for layer in unit.layers
            )
            for bits in _measured(units, widths)
        }
        for unit in units
    }
    return _choose(units, sizes, budget_bytes, f"budget_bytes {budget_bytes} is too little; this base needs {{}}")


def stored_bytes(layer: LayerShape, bits: int, *, group_size: int | None, symmetric: bool) -> int:
    """Packed codes, scales and zero points of one layer."""
    scheme = scheme_for(bits, layer.input_features, group_size=group_size, symmetric=symmetric)
    return packed_size(scheme, layer.output_features, layer.input_features)


def total_damage(units: Iterable[UnitSensitivity], bits: Mapping[str, int]) -> float:
    """Nats per answer token, taking damages as additive."""
    return sum(unit.damages[bits[unit.name]] for unit in units)


def plans_of_bits(
    units: Iterable[UnitSensitivity], bits: Mapping[str, int], *, group_size: int | None, symmetric: bool
) -> Plans:
    """What the first codes are made from: the plan of each layer, in the model's order."""
    return {
        layer.name: plan_layer(bits[unit.name], layer.input_features, group_size=group_size, symmetric=symmetric)
        for unit in units
        for layer in unit.layers
    }


def _measured(units: Sequence[UnitSensitivity], widths: Iterable[int]) -> list[int]:
    wanted = sorted(set(widths))
    missing = [bits for bits in wanted if any(bits not in unit.damages for unit in units)]
    if missing:
        raise BadSpec(
            f"the widths {missing} were not measured, only {sorted(units[0].damages)}; measure the base again with them"
        )
    return wanted


def _choose(
    units: Sequence[UnitSensitivity], sizes: Mapping[str, Mapping[int, int]], capacity: int, refusal: str
) -> dict[str, int]:
    widths = [list(sizes[unit.name]) for unit in units]
    items = [
        [Option(sizes[unit.name][bits], unit.damages[bits]) for bits in choices]
        for unit, choices in zip(units, widths, strict=True)
    ]
    choice: Choice | None = solve(items, capacity)
    if choice is None:
        raise BadSpec(refusal.format(sum(min(option.size for option in options) for options in items)))
    return {unit.name: choices[option] for unit, choices, option in zip(units, widths, choice.options, strict=True)}
