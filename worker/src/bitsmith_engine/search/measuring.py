"""From a base and training examples to the folder that any later search reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.opening import Base
from bitsmith_engine.ports import Observer
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.search.divergence import divergences
from bitsmith_engine.search.fisher import second_order
from bitsmith_engine.search.rounding import Grid
from bitsmith_engine.search.sensitivity import Sensitivity, describe_base, save_sensitivity


def measure_into(
    folder: Path,
    base: Base,
    examples: Sequence[Example],
    runtime: Runtime,
    observer: Observer,
    *,
    widths: Sequence[int],
    grid: Grid,
    seed: int,
    measure: Literal["fisher", "kl"] = "fisher",
) -> Sensitivity:
    """Measure every unit on these examples (choose_calibration picks them) and keep what was found.

    Args:
        seed: of the random signs; also what the examples were chosen by.
        measure: what the damages of the units are; those of the input channels are of second order in any case.
    """
    tokens = sum(len(example.ids) for example in examples)
    observer.note("info", f"measuring on {len(examples)} training examples, {tokens} tokens")

    units, channels = second_order(base, examples, widths, grid, runtime, observer, seed=seed)
    if measure == "kl":
        true = divergences(base, examples, widths, grid, runtime, observer)
        units = [unit.model_copy(update={"damages": true[unit.name]}) for unit in units]

    sensitivity = Sensitivity(
        measure=measure,
        widths=tuple(sorted(widths)),
        base=describe_base(base.config),
        samples=len(examples),
        tokens=tokens,
        answer_tokens=sum(sum(example.learned[1:]) for example in examples),
        seed=seed,
        group_size=grid.group_size,
        symmetric=grid.symmetric,
        clip_search=grid.clip_search,
        units=tuple(units),
    )
    save_sensitivity(sensitivity, channels, folder)
    return sensitivity
