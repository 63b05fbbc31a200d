"""How the quantized model is trained: DiodeMix, schedule, batches."""

from typing import Literal

from pydantic import Field

from bitsmith_core.spec.strict import Strict


class DiodeMix(Strict):
    """The optimizer of record: scales by AdamW in relative units, codes by earned flips.

    A code's accumulator starts at the rounding residual of its float weight and is in units of one level; the code
    moves one level when the accumulator leaves its cell, the largest first, until the run's flip budget is spent.
    """

    mode: Literal["residual", "scales_only"] = "residual"
    scale_learning_rate: float = Field(default=5e-3, gt=0, le=1, description="relative change of a scale per step")
    code_learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="change of a float weight per step, in weight units"
    )
    flip_budget: float = Field(default=0.02, ge=0, le=1, description="fraction of all codes the whole run may move")
    accumulator: Literal["int8", "float32"] = "int8"


class Training(Strict):
    optimizer: DiodeMix = DiodeMix()
    epochs: int = Field(default=1, ge=1, le=100)
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(default=8, ge=1, le=4096, description="examples per optimizer step")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="examples per forward pass; batch_size if unset"
    )
    max_length: int = Field(default=512, ge=16, le=131072, description="tokens; longer examples are cut at the end")
    warmup_fraction: float = Field(default=0.1, ge=0, le=1, description="of all steps; then cosine to zero")
