"""Bitsmith's own methods, called as its pipeline calls them: search, first codes, distillation, Q-SFT."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from bitsmith_core.spec import DiodeMix as DiodeMixSettings
from bitsmith_core.spec import Distillation, InitialCodes, Training
from bitsmith_engine.calibrate.distil import distil, latent_reader, take_latents
from bitsmith_engine.calibrate.start import start_codes, start_weights
from bitsmith_engine.data.examples import Example
from bitsmith_engine.models.opening import Base
from bitsmith_engine.nn.assembly import load_quantized, rest_names
from bitsmith_engine.optim.diodemix import DiodeMix, ReadWeight
from bitsmith_engine.optim.schedule import Schedule
from bitsmith_engine.ports import Silent
from bitsmith_engine.quant.plan import PLANS, Plans
from bitsmith_engine.quant.storage import (
    Parameters,
    Rest,
    load_parameters,
    load_rest,
    packed_bytes,
    save_parameters,
    save_rest,
)
from bitsmith_engine.runtime import Runtime
from bitsmith_engine.search.allocate import allocate, plans_of_bits
from bitsmith_engine.search.channels import channel_plan
from bitsmith_engine.search.measuring import measure_into
from bitsmith_engine.search.rounding import Grid
from bitsmith_engine.search.sensitivity import choose_calibration, load_channels, load_sensitivity
from bitsmith_engine.train.loop import train
from torch import Tensor

Mix = Literal["layer-mix", "channel-mix"]


class Calibrated(NamedTuple):
    parameters: Parameters
    rest: Rest
    float_weight: ReadWeight  # what the codes stand for


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    initial: InitialCodes
    distillation: Distillation | None


def bit_map(
    base: Base,
    examples: Sequence[Example],
    runtime: Runtime,
    *,
    scheme: Mix,
    bpw: float,
    widths: Sequence[int],
    group_size: int | None,
    samples: int,
    seed: int,
    folder: Path,
) -> Plans:
    """The plan of every linear layer; what the search measured is kept in the folder and found again."""
    measured = folder / f"sensitivity-{digest([samples, seed, list(widths), group_size, examples])}"
    if not (measured / "done").is_file():
        measured.mkdir(parents=True, exist_ok=True)
        grid = Grid(group_size=group_size, symmetric=False, clip_search=True)
        chosen = choose_calibration(examples, samples, seed=seed)
        measure_into(measured, base, chosen, runtime, Silent(), widths=widths, grid=grid, seed=seed)
        (measured / "done").touch()
    units = load_sensitivity(measured).units
    if scheme == "channel-mix":
        return channel_plan(units, load_channels(measured), bpw=bpw, widths=widths, group_size=group_size)
    return plans_of_bits(units, allocate(units, bpw=bpw, widths=widths), group_size=group_size, symmetric=False)


def calibrated(
    base: Base,
    plans: Plans,
    tokens_BT: Tensor,
    calibration: Calibration,
    runtime: Runtime,
    *,
    seed: int,
    folder: Path,
    origin: str = "base",
) -> Calibrated:
    """First codes, then distillation if asked for; a folder that holds the result of the same call answers at once.

    Args:
        origin: tells results of different float weights apart.
    """
    name = digest([PLANS.dump_json(plans), tokens_BT.tolist(), calibration, seed, origin])
    result = folder / f"calibrated-{name}"
    if (result / "done").is_file():
        return _calibrated(result, calibration, base, runtime)
    parameters, rest = start_codes(
        base,
        plans,
        tokens_BT,
        calibration.initial,
        runtime,
        Silent(),
        clip_search=True,
    )
    if calibration.distillation is not None:
        work = folder / f"distil-{name}"
        work.mkdir(parents=True, exist_ok=True)
        parameters, rest = distil(
            base, parameters, rest, tokens_BT, calibration.distillation, runtime, Silent(), seed=seed, folder=work
        )
    result.mkdir(parents=True, exist_ok=True)
    save_parameters(parameters, result)
    save_rest(rest, result)
    if calibration.distillation is not None:
        take_latents(work, result)
        shutil.rmtree(work)
    (result / "done").touch()
    return _calibrated(result, calibration, base, runtime)


def _calibrated(folder: Path, calibration: Calibration, base: Base, runtime: Runtime) -> Calibrated:
    parameters = load_parameters(folder, runtime.device)
    float_weight = latent_reader(folder) or start_weights(base, parameters, calibration.initial)
    return Calibrated(parameters, load_rest(folder), float_weight)


def tune(
    base: Base,
    start: Calibrated,
    settings: DiodeMixSettings,
    training: Training,
    examples: Sequence[Example],
    plan: Sequence[Sequence[int]],
    runtime: Runtime,
    *,
    seed: int,
) -> tuple[Any, dict[str, float]]:
    """Q-SFT; the parameters change. Returns the model and what DiodeMix reports."""
    parameters, rest, float_weight = start
    optimizer = DiodeMix(
        parameters,
        settings,
        Schedule(steps=len(plan), warmup_fraction=training.warmup_fraction),
        seed=seed,
        float_weight=float_weight,
    )
    model = load_quantized(base, parameters, runtime, rest)
    norms_and_biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    facts = train(
        model, optimizer, examples, plan, training, runtime, Silent(), floats=norms_and_biases,
        float_learning_rate=settings.float_learning_rate,
    )  # fmt: skip
    return model, {"flips": facts.flips, "flip_rate": facts.flip_rate}


def stored_bytes(base: Base, parameters: Parameters, model: Any) -> int:
    """Codes, scales and zeros as packed, and everything else in 16 bit."""
    floats: int = sum(2 * model.get_parameter(name).numel() for name in rest_names(base, parameters))
    return floats + sum(sum(packed_bytes(parameter)) for parameter in parameters.values())


def bits_per_weight(plans: Plans, shapes: Mapping[str, torch.Size]) -> float:
    """As stored: codes, scales, zero points, and which column is whose."""
    bits = sum(plan.bits_per_weight(shapes[name][0]) * shapes[name].numel() for name, plan in plans.items())
    return bits / sum(shapes[name].numel() for name in plans)


def cache_of(model: str, folder: Path) -> Path:
    """Where results of this model are kept: another folder's model has another place."""
    resolved = Path(model).resolve()
    return folder / f"{resolved.name}-{digest(str(resolved))}"


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
