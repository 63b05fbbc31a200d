"""How weights are stored: which grid, how many bits, where, and how the first codes are found."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bitsmith_core.spec.strict import Strict

Width = Literal[2, 3, 4, 8]
"""Bits of a code."""

InitialCodes = Literal["rtn", "hqq", "awq", "gptq"]
"""rtn: round to nearest. hqq: a robust fit of the grid to the weights alone. awq: channels that carry large activations
are scaled up before rounding. gptq: rounding errors are compensated through the inputs' Gram matrix."""


class Distillation(Strict):
    """Calibration against the float model's outputs, computed once: block by block, then end to end."""

    samples: int = Field(default=128, ge=1, le=512, description="windows of training text")
    max_length: int = Field(default=256, ge=16, le=8192, description="tokens per window")
    block_epochs: int = Field(default=2, ge=0, le=50, description="passes that fit each decoder layer to its output")
    end_to_end_epochs: int = Field(default=1, ge=0, le=50, description="passes that fit the final distribution")
    teacher_top_k: int = Field(default=64, ge=1, le=4096, description="logits of the float model kept for a token")


class _Grid(Strict):
    symmetric: bool = Field(default=False, description="the zero point in the middle of the codes")
    group_size: Literal[32, 64, 128] | None = Field(
        default=None, description="consecutive input features that share a scale; 64 at two bits, else 128, if unset"
    )
    initial: InitialCodes = "gptq"
    clip_search: bool = Field(default=True, description="shrink each group's range where that lowers its squared error")
    distillation: Distillation | None = Distillation()


class UniformQuantization(_Grid):
    """One width for every linear layer."""

    scheme: Literal["uniform"] = "uniform"
    bits: Width = 4


class _Mix(_Grid):
    calibration_samples: int = Field(
        default=16, ge=1, le=512, description="training examples the sensitivity of each unit is measured on"
    )
    widths: tuple[Width, ...] = Field(default=(2, 3, 4), min_length=1, max_length=4, description="to choose from")

    @field_validator("widths", mode="before")
    @classmethod
    def _list_is_a_tuple(cls, value: Any) -> Any:
        """To strict readers it is not, and JSON knows no tuples."""
        return tuple(value) if isinstance(value, list) else value

    @field_validator("widths")
    @classmethod
    def _widths_differ(cls, value: tuple[Width, ...]) -> tuple[Width, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"widths names a width twice: {list(value)}")
        return value


class LayerMixQuantization(_Mix):
    """More bits where the model is sensitive, fewer elsewhere; q/k/v and gate/up always share a width.

    `bpw` counts codes only, as model names in the field do: with widths 2 and 4, 2.2 is 10 % INT4, 3.0 is 50 %.
    `budget_bytes` is given instead of it where the result has to fit somewhere.
    """

    scheme: Literal["layer-mix"] = "layer-mix"
    bpw: float | None = Field(
        default=3.0, ge=2.0, le=8.0, description="bits per weight, counting codes only; null beside a budget_bytes"
    )
    budget_bytes: int | None = Field(
        default=None,
        ge=1,
        le=2**53 - 1,
        description="instead of bpw: the most that codes, scales and zero points of the linear layers may take",
    )

    @model_validator(mode="before")
    @classmethod
    def _bytes_replace_the_default_of_bpw(cls, value: Any) -> Any:
        is_in_bytes = isinstance(value, dict) and value.get("budget_bytes") is not None
        return {"bpw": None, **value} if is_in_bytes else value

    @field_validator("budget_bytes")
    @classmethod
    def _is_the_only_budget(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("bpw") is not None:
            raise ValueError(f"bpw {info.data['bpw']} is a budget, too; give one of them")
        return value

    @model_validator(mode="after")
    def _budget_is_within_reach(self) -> Self:
        if self.bpw is None and self.budget_bytes is None:
            raise ValueError("there is no budget; give bpw or budget_bytes")
        if self.bpw is not None:
            _check_reach(self.bpw, self.widths)
        return self


class ChannelMixQuantization(_Mix):
    """More bits for the input channels of a layer that are sensitive, fewer for its others; `bpw` as for layer-mix."""

    scheme: Literal["channel-mix"] = "channel-mix"
    bpw: float = Field(default=3.0, ge=2.0, le=8.0, description="bits per weight, counting codes only")

    @model_validator(mode="after")
    def _budget_is_within_reach(self) -> Self:
        _check_reach(self.bpw, self.widths)
        return self


def _check_reach(bpw: float, widths: tuple[Width, ...]) -> None:
    if not min(widths) <= bpw <= max(widths):
        raise ValueError(f"bpw {bpw} is outside of what the widths {sorted(widths)} can reach")


Quantization = Annotated[
    UniformQuantization | LayerMixQuantization | ChannelMixQuantization, Field(discriminator="scheme")
]
