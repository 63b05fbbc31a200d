"""What each width would cost each unit of layers: measured once, kept, and enough for any budget afterwards.

Two files in a folder. sensitivity.json holds per unit the damage of every width in nats per answer token, and the
squared error of its weights; channels.safetensors holds per layer and width how much of the damage each input channel
carries, float32 (K,) under `<layer>.<bits>`. Another budget, fewer widths, or channels instead of layers re-use them.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig

from bitsmith_engine.data.examples import Example
from bitsmith_engine.errors import BadData

SENSITIVITY_FILE = "sensitivity.json"
CHANNELS_FILE = "channels.safetensors"

CALIBRATION_TOKENS = 2048  # at most; time is proportional to it, and ranks settle well before

Channels = Mapping[str, Mapping[int, Tensor]]
"""By layer and width: the damage of each input channel, float32 (K,), additive, in nats per answer token."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerShape(_Record):
    name: str  # module path
    output_features: int
    input_features: int

    @property
    def weights(self) -> int:
        return self.output_features * self.input_features


class UnitSensitivity(_Record):
    name: str  # "3.qkv"
    layers: tuple[LayerShape, ...]
    damages: dict[int, float]  # by width, nats per answer token
    weight_errors: dict[int, float]  # by width, sum of squared errors of the weights

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def gain(self) -> float:
        """What the widest width measured saves over the narrowest."""
        return max(0.0, self.damages[min(self.damages)] - self.damages[max(self.damages)])


class Sensitivity(_Record):
    format: Literal["bitsmith-sensitivity/1"] = "bitsmith-sensitivity/1"
    measure: Literal["fisher", "kl"]  # second order, or the divergence itself
    widths: tuple[int, ...]
    base: str  # what was measured, in words
    samples: int  # examples
    tokens: int  # of all examples
    answer_tokens: int  # those that were predicted and compared
    seed: int
    group_size: int | None  # asked for; None: the preferred one of each width
    symmetric: bool
    clip_search: bool
    units: tuple[UnitSensitivity, ...]


def choose_calibration(
    examples: Sequence[Example], samples: int, *, seed: int, limit_tokens: int = CALIBRATION_TOKENS
) -> list[Example]:
    """At least one example; then as many of a seeded shuffle as fit both limits."""
    order = random.Random(f"calibration/{seed}").sample(range(len(examples)), min(samples, len(examples)))
    chosen = [examples[order[0]]]
    for index in order[1:]:
        if sum(len(example.ids) for example in chosen) + len(examples[index].ids) <= limit_tokens:
            chosen.append(examples[index])
    return chosen


def describe_base(config: PretrainedConfig) -> str:
    return (
        f"{config.model_type}, {config.num_hidden_layers} layers, {config.hidden_size} hidden and "
        f"{config.intermediate_size} intermediate features, vocabulary {config.vocab_size}"
    )


def save_sensitivity(sensitivity: Sensitivity, channels: Channels, folder: Path) -> None:
    tensors = {f"{name}.{bits}": damage_K for name, by_bits in channels.items() for bits, damage_K in by_bits.items()}
    save_file(tensors, folder / CHANNELS_FILE)
    (folder / SENSITIVITY_FILE).write_text(sensitivity.model_dump_json(indent=1))


def load_sensitivity(folder: Path) -> Sensitivity:
    """Raises BadData naming the file that is not what save_sensitivity wrote."""
    file = folder / SENSITIVITY_FILE
    try:
        return Sensitivity.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadData(f"{file} is not a sensitivity measurement ({error}); measure the base again") from error


def load_channels(folder: Path) -> Channels:
    """On the CPU. Raises BadData as load_sensitivity does."""
    file = folder / CHANNELS_FILE
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadData(f"{file} is not a sensitivity measurement ({error}); measure the base again") from error
    channels: dict[str, dict[int, Tensor]] = {}
    for key, damage_K in tensors.items():
        name, _, bits = key.rpartition(".")
        channels.setdefault(name, {})[int(bits)] = damage_K
    return channels
