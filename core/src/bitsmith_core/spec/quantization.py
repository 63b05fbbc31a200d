"""How weights are stored: which grid, how many bits, where."""

from typing import Annotated, Literal

from pydantic import Field

from bitsmith_core.spec.strict import Strict


class UniformQuantization(Strict):
    """One width for every linear layer."""

    scheme: Literal["uniform"] = "uniform"
    bits: Literal[2, 4] = 4
    clip_search: bool = Field(default=True, description="shrink each group's range where that lowers its squared error")


class LayerMixQuantization(Strict):
    """INT4 where the model is sensitive, INT2 elsewhere; q/k/v and gate/up always share a width.

    `bpw` counts codes only, as model names in the field do: 2.2 is 10 % INT4, 3.0 is 50 %, 4.0 is all INT4.
    """

    scheme: Literal["layer-mix"] = "layer-mix"
    bpw: float = Field(default=3.0, ge=2.0, le=4.0, description="bits per weight, counting codes only")
    calibration_samples: int = Field(
        default=16, ge=1, le=512, description="training examples the sensitivity of each unit is measured on"
    )
    clip_search: bool = Field(default=True, description="shrink each group's range where that lowers its squared error")


Quantization = Annotated[UniformQuantization | LayerMixQuantization, Field(discriminator="scheme")]
