"""What an engine leaves in OUT/artifacts: files named by digest, the facts the registry shows about them, and every
answer behind their scores."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
EVALS = "evals.json"

Subject = Literal["float", "quantized", "qsft", "lora", "qlora"]
"""float: the base as loaded; quantized: before training; qsft, lora, qlora: after training by that method."""


class _Fact(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Fact):
    path: str  # relative to the bundle, forward slashes
    bytes: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StoredFile(FileEntry):
    object_key: str  # where its bytes are in the object store


class LayerBits(_Fact):
    name: str  # module path of the linear layer
    bits: int
    group_size: int
    weights: int
    sensitivity: float | None = None  # KL at 2 bits minus KL at 4 bits of the unit it belongs to, nats per token


class QuantizationFacts(_Fact):
    scheme: str
    bpw_codes: float  # codes only, as model names in the field count
    bpw_effective: float  # with scales and zeros
    quantized_weights: int
    float_weights: int  # embeddings, norms, head: kept in 16 bit
    quantized_bytes: int  # codes, scales and zeros of the quantized layers
    model_bytes: int  # the native checkpoint's weights, all of them
    float_bytes: int  # the float base in 16 bit, for comparison
    layers: list[LayerBits]
    notes: list[str] = Field(default_factory=list)  # e.g. group size fallbacks


class TrainingFacts(_Fact):
    optimizer: str
    mode: str
    steps: int
    examples: int
    tokens: int  # tokens with a loss
    first_loss: float
    last_loss: float
    flips: int
    flip_rate: float  # flips / all codes
    flip_budget: float


class StageFacts(_Fact):
    stage: str
    wall_s: float
    peak_memory_bytes: int
    resumed: bool = False  # taken from an earlier attempt's checkpoint; wall_s is that attempt's


class ScoreDetails(_Fact):
    """What somebody needs to ask the same again. None: it does not apply, or an older engine did not say."""

    num_fewshot: int | None = None
    task_version: str | None = None  # of the task's definition
    task_sha256: str | None = None  # of the documents, and of those that examples came from
    template_sha256: str | None = None  # of what makes a prompt of a document
    harness: str | None = None  # name and version: lm_eval 0.4.13, bitsmith 0.1.0
    filter: str | None = None  # what was made of an answer before it was judged


class Score(_Fact):
    subject: Subject
    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    n_unit: str  # what n counts: tokens, questions
    higher_is_better: bool
    comparable_key: str  # equal keys: same task, data, template and settings, so a difference means something
    details: ScoreDetails = ScoreDetails()


class AnswerLoss(_Fact):
    """One example of perplexity."""

    nll: float  # nats, summed over the example's learned tokens
    tokens: int


class ChoiceScores(_Fact):
    """One multiple-choice question."""

    scores: list[float]  # nats per character, of each choice
    correct: int

    @property
    def is_right(self) -> bool:
        return max(range(len(self.scores)), key=self.scores.__getitem__) == self.correct


class DocumentAnswer(_Fact):
    """One document of a benchmark."""

    task: str  # lm_eval's: boolq, mmlu_anatomy
    doc: int  # its position among the task's documents in the pack
    correct: dict[str, bool]  # by metric: acc, acc_norm
    scores: list[float]  # log-likelihood of each answer, nats


class BenchmarkItems(_Fact):
    """One benchmark; equal keys mean that equal positions are the same document."""

    task: str
    comparable_key: str
    answers: list[DocumentAnswer]


class SubjectItems(_Fact):
    """One model's answers, in the plan's order; equal positions of two subjects are the same item."""

    subject: Subject
    answer_perplexity: list[AnswerLoss]
    answer_choice: list[ChoiceScores]
    benchmarks: list[BenchmarkItems] = []


class Evals(_Fact):
    """The evals.json of a bundle: its scores, and every item they were counted from."""

    scores: list[Score]
    items: list[SubjectItems]


class Environment(_Fact):
    engine: str
    torch: str
    transformers: str
    device: str
    seed: int


class Manifest(_Fact):
    """The bundle's table of contents. `sha256` over the files is the version's identity."""

    format: Literal["bitsmith/1"] = "bitsmith/1"
    base_model: str
    spec_sha256: str
    files: list[FileEntry]
    quantization: QuantizationFacts | None  # None: adapters on a float or NF4 base, merged into 16-bit weights
    training: TrainingFacts | None
    stages: list[StageFacts]
    scores: list[Score]
    environment: Environment

    @property
    def sha256(self) -> str:
        return files_sha256(self.files)

    @property
    def subject(self) -> Subject:
        """Which of the subjects of its scores the bundle itself is: the last that was made."""
        made: list[Subject] = ["qsft", "lora", "qlora"]
        return next((subject for subject in made if any(s.subject == subject for s in self.scores)), "quantized")

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


def files_sha256(files: list[FileEntry]) -> str:
    """One digest of a set of files: paths, sizes and digests, in path order."""
    rows = sorted((entry.path, entry.bytes, entry.sha256) for entry in files)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()


def describe_files(folder: Path, *, leave_out: frozenset[str] = frozenset({MANIFEST})) -> list[FileEntry]:
    """Every file below folder with its size and digest, in path order."""
    entries = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in leave_out:
            entries.append(FileEntry(path=name, bytes=path.stat().st_size, sha256=file_sha256(path)))
    return entries


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
