"""JobSpec: what a person asks for. Immutable once submitted; the engine reads the very same object."""

import hashlib
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from bitsmith_core.spec.held_out import FEWEST_IN_ALL, held_out_count
from bitsmith_core.spec.outputs import Evaluation, Export, Resources
from bitsmith_core.spec.quantization import LayerMixQuantization, Quantization
from bitsmith_core.spec.references import FileRef, ModelRef, VersionRef, base_slug
from bitsmith_core.spec.strict import Strict
from bitsmith_core.spec.training import LoraTraining, Training


def _without_default(schema: JsonDict) -> None:
    schema.pop("default")


class QsftSettings(Strict):
    quantization: Quantization = LayerMixQuantization()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    exports: list[Export] = Field(default=["bf16"])
    resources: Resources = Resources()


class QuantizeSettings(Strict):
    quantization: Quantization = LayerMixQuantization()
    max_length: int = Field(default=512, ge=16, le=131072, description="tokens; longer examples are cut at the end")
    evaluation: Evaluation = Evaluation()
    exports: list[Export] = Field(default=["bf16"])
    resources: Resources = Resources()


class LoraSettings(Strict):
    training: LoraTraining = LoraTraining()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()


class EvaluateSettings(Strict):
    version: VersionRef = Field(
        description="of the registry: name@3; a request may also say name@alias, or name for its newest version"
    )
    base: bool = Field(default=True, description="score the float base that it was made from as well")
    max_length: int = Field(default=512, ge=16, le=131072, description="tokens; longer examples are cut at the end")
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()


class QsftMethod(Strict):
    """Quantize, then fine-tune scales, norms and, if the optimizer's mode says so, codes inside the quantized space."""

    type: Literal["qsft"] = "qsft"
    qsft: QsftSettings = QsftSettings()


class QuantizeMethod(Strict):
    """Quantize only; the training file serves as calibration data."""

    type: Literal["quantize"] = "quantize"
    quantize: QuantizeSettings = QuantizeSettings()


class LoraMethod(Strict):
    """Low-rank adapters on the float base, by peft: what Q-SFT is compared with."""

    type: Literal["lora"] = "lora"
    lora: LoraSettings = LoraSettings()


class QloraMethod(Strict):
    """Low-rank adapters on a base in NF4, by peft and bitsandbytes."""

    type: Literal["qlora"] = "qlora"
    qlora: LoraSettings = LoraSettings()


class EvaluateMethod(Strict):
    """Score a version that is there already; what comes of it is an evaluation, not another version."""

    type: Literal["evaluate"] = "evaluate"
    evaluate: EvaluateSettings


Method = Annotated[QsftMethod | QuantizeMethod | LoraMethod | QloraMethod | EvaluateMethod, Field(discriminator="type")]

_TEXT = r"^[^\x00]*$"  # Postgres cannot store NUL
Labels = Annotated[
    dict[Annotated[str, Field(max_length=64, pattern=_TEXT)], Annotated[str, Field(max_length=512, pattern=_TEXT)]],
    Field(max_length=16),
]
"""What people note about a job: their own keys and values."""

_SUFFIX = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"


def _again(problem: ErrorDetails) -> InitErrorDetails:
    """A problem that was told, to be told once more beside others."""
    return InitErrorDetails(
        type=PydanticCustomError(problem["type"], "{told}", {**problem.get("ctx", {}), "told": problem["msg"]}),
        loc=problem["loc"],
        input=problem["input"],
    )


class JobBasics(Strict):
    """What every job has, whatever its method."""

    is_decided: ClassVar[bool] = False  # whether the model of an evaluation is known, too

    model: ModelRef | None = Field(
        default=None, description="the base model; the method `evaluate` takes the one its version was made from"
    )
    training_file: FileRef | None = Field(default=None, description="needed by every method but `evaluate`")
    validation_file: FileRef | None = Field(
        default=None,
        description="never trained on; all scores come from it. Without one, one in 20 examples of the training file "
        "(8 at least, 256 at most) are held out for that; the seed decides which",
    )
    suffix: str | None = Field(default=None, pattern=_SUFFIX, description="ends the registered model's name")
    seed: int = Field(default=0, ge=0, lt=2**31)
    metadata: Labels = Field(default_factory=dict)

    @model_validator(mode="after")
    def _validation_is_held_out(self) -> Self:
        if self.training_file is not None and self.training_file == self.validation_file:
            raise ValueError("validation_file is the training_file; scores on trained examples say nothing")
        return self

    @model_validator(mode="after")
    def _evaluates_something_and_trains_nothing(self) -> Self:
        method = getattr(self, "method", None)
        if not isinstance(method, EvaluateMethod):
            return self
        if self.training_file is not None:
            raise ValueError("training_file has no place in an evaluate job, which trains nothing; leave it out")
        if self.validation_file is None and not method.evaluate.evaluation.benchmarks:
            raise ValueError(
                "there is nothing to be scored on; give evaluate.evaluation.benchmarks, a validation_file, or both"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _names_what_its_method_needs(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """What the method needs and nobody gave is told together with all else that is wrong."""
        lacking = cls._lacking(given)
        try:
            job = handler(given)
        except ValidationError as error:
            found = error.errors()
            told = {problem["loc"] for problem in found}
            if untold := [name for name in lacking if (name,) not in told]:
                raise cls._refusal(untold, found) from error
            raise
        if lacking:
            raise cls._refusal(lacking, [])
        return job

    @classmethod
    def _refusal(cls, lacking: list[str], found: list[ErrorDetails]) -> ValidationError:
        missing = [InitErrorDetails(type="missing", loc=(name,), input={}) for name in lacking]
        return ValidationError.from_exception_data(cls.__name__, [*missing, *map(_again, found)])

    @classmethod
    def _lacking(cls, given: Any) -> list[str]:
        if not isinstance(given, dict):
            return []
        method = given.get("method")
        is_evaluation = isinstance(method, EvaluateMethod) or (
            isinstance(method, dict) and method.get("type") == "evaluate"
        )
        needed = {"model": cls.is_decided or not is_evaluation, "training_file": not is_evaluation}
        return [name for name, is_needed in needed.items() if is_needed and not given.get(name)]

    def trained_examples(self, examples: int) -> int:
        """How many of a training file's are trained on; all of one that is too small to hold some out."""
        is_whole = self.validation_file is not None or examples < FEWEST_IN_ALL
        return examples if is_whole else examples - held_out_count(examples)


class JobSpec(JobBasics):
    """One job: a fine-tuning, a quantization, or the evaluation of a version.

    All scores but those of benchmarks come from `validation_file`, or from examples of the training file that are held
    out instead.
    """

    is_decided: ClassVar[bool] = True

    # Never empty: the validator above says that it is missing, together with whatever else is.
    model: ModelRef = Field(default="", json_schema_extra=_without_default)
    method: Method = QsftMethod()

    @property
    def settings(self) -> QsftSettings | QuantizeSettings | LoraSettings | EvaluateSettings:
        match self.method:
            case QsftMethod(qsft=settings):
                return settings
            case QuantizeMethod(quantize=quantize_settings):
                return quantize_settings
            case LoraMethod(lora=lora_settings):
                return lora_settings
            case QloraMethod(qlora=qlora_settings):
                return qlora_settings
            case EvaluateMethod(evaluate=evaluate_settings):
                return evaluate_settings

    @property
    def training(self) -> Training | None:
        """None for a method that does not train codes."""
        return self.method.qsft.training if isinstance(self.method, QsftMethod) else None

    @property
    def evaluates(self) -> str | None:
        """The version that is evaluated; None for a job that makes one."""
        return self.method.evaluate.version if isinstance(self.method, EvaluateMethod) else None

    @property
    def needs_base(self) -> bool:
        """Whether its base model is read at all."""
        return not isinstance(self.method, EvaluateMethod) or self.method.evaluate.base

    @property
    def max_length(self) -> int:
        settings = self.settings
        if isinstance(settings, QuantizeSettings | EvaluateSettings):
            return settings.max_length
        return settings.training.max_length

    @property
    def model_name(self) -> str:
        """Name the result is registered under: base, then the suffix or the method; an evaluation adds to its model."""
        if self.evaluates is not None:
            return self.evaluates.partition("@")[0]
        return f"{base_slug(self.model)}-{self.suffix or self.method.type}"

    @property
    def pool(self) -> str:
        """Of the workers that may run it."""
        return self.settings.resources.pool

    @property
    def sha256(self) -> str:
        """Digest of the resolved spec; equal specs have equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
