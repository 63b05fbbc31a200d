"""How the quantized model is trained: DiodeMix, schedule, batches."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bitsmith_core.spec.strict import Strict

StateKind = Literal["float32", "bfloat16", "int8", "int4"]


class DiodeMix(Strict):
    """The optimizer of record: scales by AdamW in relative units, codes, where they are trained, by earned flips.

    scales_only  codes stay; the best where training is short and starts from a calibrated model (docs/engine-log.md)
    residual     an accumulator in levels, started at the rounding residual of the float weight; a code moves when it
                 leaves its cell; the best where quantization left much to repair
    rank         codes with the largest momentum over curvature move, as many as the budget allows
    sr           AdamW's step on the weight, rounded at random
    eco          AdamW's step, rounded to the nearest; the error goes back into the momentum
    adam_rtn     AdamW's step, rounded to the nearest; the error is forgotten (the rule of the published tools)
    """

    mode: Literal["residual", "scales_only", "rank", "sr", "eco", "adam_rtn"] = "scales_only"
    scale_learning_rate: float = Field(default=5e-3, gt=0, le=1, description="relative change of a scale per step")
    code_learning_rate: float = Field(
        default=2e-4, gt=0, le=1, description="change of a float weight per step, in weight units"
    )
    float_learning_rate: float = Field(
        default=1e-3, ge=0, le=1, description="of AdamW on the norms, which stay in 16 bit; 0 freezes them"
    )
    flip_budget: float = Field(default=0.02, ge=0, le=1, description="fraction of all codes the whole run may move")
    accumulator: StateKind = Field(default="int8", description="how residuals are kept")
    momentum: Literal["none", "low_rank"] | StateKind = Field(
        default="none", description="first moment of the codes' gradient; low_rank keeps it in a subspace"
    )
    momentum_beta: float = Field(default=0.9, ge=0, lt=1)
    gate_sigma: float = Field(
        default=0.0, ge=0, le=10, description="a code moves only if its momentum is this many sigmas of batch noise"
    )
    gradient_tokens: float = Field(
        default=0.125,
        gt=0,
        le=1,
        description="share of a batch's tokens that weight gradients are estimated from, drawn by the size of their "
        "contribution and weighed so that the mean is exact; less is faster",
    )
    trust_every: int | None = Field(
        default=None,
        ge=1,
        description="steps after which flips are checked on a batch not trained on yet, and taken back if they cost",
    )

    @model_validator(mode="after")
    def _has_the_momentum_it_needs(self) -> Self:
        if self.momentum == "none" and self.mode not in ("residual", "scales_only"):
            raise ValueError(f"mode {self.mode} needs a momentum; float32 is the exact one, int8 the small one")
        if self.gate_sigma and self.momentum == "none":
            raise ValueError("gate_sigma judges the momentum, and momentum is none")
        return self


class EarlyStopping(Strict):
    """Stop when the validation loss no longer falls, and keep the best weights seen."""

    every_steps: int = Field(default=50, ge=1, description="optimizer steps between two looks")
    patience: int = Field(default=3, ge=1, description="looks without a better loss before stopping")
    examples: int = Field(default=64, ge=1, description="validation examples per look")


class _Loop(Strict):
    epochs: int = Field(default=1, ge=1, le=100)
    max_steps: int | None = Field(default=None, ge=1, description="stop after this many optimizer steps")
    batch_size: int = Field(default=8, ge=1, le=4096, description="examples per optimizer step")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="examples per forward pass; batch_size if unset"
    )
    max_length: int = Field(default=512, ge=16, le=131072, description="tokens; longer examples are cut at the end")
    warmup_fraction: float = Field(default=0.1, ge=0, le=1, description="of all steps; then cosine to zero")
    early_stopping: EarlyStopping | None = None
    activation_checkpointing: bool = Field(
        default=False, description="recompute each decoder layer in the backward pass: a third slower, far less memory"
    )


class Training(_Loop):
    """Q-SFT."""

    optimizer: DiodeMix = DiodeMix()
    packing: bool = Field(
        default=True, description="several short examples in one row; none sees another, and the loss is the same"
    )
    checkpoint_steps: int = Field(
        default=100,
        ge=1,
        description="optimizer steps between checkpoints; a NaN returns to the last one, and an engine that is started "
        "again in the same folder continues from it",
    )
    max_rollbacks: int = Field(
        default=2, ge=0, le=10, description="returns to the last checkpoint, at half the rates, after a loss of NaN"
    )


class LoraTraining(_Loop):
    """Adapters in floating point beside frozen linear layers."""

    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="of AdamW")
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    checkpoint_steps: int = Field(
        default=100, ge=1, description="optimizer steps between checkpoints, which later attempts go on from"
    )
