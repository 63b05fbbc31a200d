"""What a job leaves behind besides the quantized checkpoint: scores and exports."""

from typing import Literal

from pydantic import Field

from bitsmith_core.spec.strict import Strict


class MultipleChoice(Strict):
    """Which answer belongs to this prompt? The example's own against answers of other validation examples."""

    questions: int = Field(default=100, ge=2, le=100_000)
    choices: int = Field(default=4, ge=2, le=16)


class Evaluation(Strict):
    """Scored on the validation file for the float base, the quantized model and the trained one."""

    perplexity_examples: int = Field(default=200, ge=2, le=1_000_000, description="validation examples scored at most")
    multiple_choice: MultipleChoice | None = MultipleChoice()


Export = Literal["bf16"]
"""bf16: a dequantized folder that transformers loads with no code of ours."""


class Resources(Strict):
    device: Literal["auto", "cpu", "cuda"] = "auto"
