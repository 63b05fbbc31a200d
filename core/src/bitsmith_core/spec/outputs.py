"""What a job leaves behind besides the quantized checkpoint: scores and exports."""

from typing import Literal, Self

from pydantic import Field, model_validator

from bitsmith_core.pools import DEFAULT_POOL, PoolName
from bitsmith_core.spec.references import FileRef
from bitsmith_core.spec.strict import Strict


class MultipleChoice(Strict):
    """Which answer belongs to this prompt? The example's own against answers of other validation examples."""

    questions: int = Field(default=100, ge=2, le=100_000)
    choices: int = Field(default=4, ge=2, le=16)


TaskName = Literal[
    "boolq", "race", "arc_easy", "arc_challenge", "winogrande", "hellaswag", "piqa", "wic",
    "anli_r1", "anli_r2", "anli_r3", "openbookqa", "mmlu",
]  # fmt: skip
"""A benchmark of the field, by the name that lm_eval gives it."""


class BenchmarkTask(Strict):
    """One task of EleutherAI's evaluation harness on data of your own keeping: no hub is asked."""

    task: TaskName
    file: FileRef = Field(description="the eval pack: an uploaded JSONL file with the task's documents")
    fewshot_file: FileRef | None = Field(default=None, description="where few-shot examples come from; `file` if unset")
    num_fewshot: int = Field(default=0, ge=0, le=64)
    limit: int | None = Field(default=None, ge=2, description="documents scored at most, the first of the file")


class Evaluation(Strict):
    """Scored on the validation file for the float base, the quantized model and the trained one."""

    benchmarks: list[BenchmarkTask] = Field(default=[], max_length=64)

    perplexity_examples: int = Field(default=200, ge=2, le=1_000_000, description="validation examples scored at most")
    multiple_choice: MultipleChoice | None = MultipleChoice()

    @model_validator(mode="after")
    def _scores_have_names_of_their_own(self) -> Self:
        asked = [(benchmark.task, benchmark.num_fewshot) for benchmark in self.benchmarks]
        for task, num_fewshot in asked:
            if asked.count((task, num_fewshot)) > 1:
                raise ValueError(f"benchmarks names {task} with num_fewshot {num_fewshot} twice; ask for it once")
        return self


Export = Literal["bf16"]
"""bf16: a dequantized folder that transformers loads with no code of ours."""


class Resources(Strict):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # Left out where it is the default: workers of the release before read such a spec, and its digest stays.
    pool: PoolName = Field(
        default=DEFAULT_POOL,
        exclude_if=lambda pool: pool == DEFAULT_POOL,
        description="of workers, by name: one of these runs the job, and no other does",
    )
