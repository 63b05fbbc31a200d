"""What a client may ask for: a JobSpec, or OpenAI's own request, which becomes one.

OpenAI's method `supervised` is Q-SFT with its defaults; `"auto"` is decided here, once, from the number n of training
examples, so that the job says what it does:

    n_epochs                  3, but at least 100 examples read in all (25 at most) and at most 25000 (1 at least):
                              the rule that OpenAI's cookbook publishes for its own "auto"
    batch_size                n / 25 rounded down to a power of two, from 1 to 8: some 25 steps an epoch, or more
    learning_rate_multiplier  1; it multiplies the defaults of all three learning rates
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, WithJsonSchema, field_validator, model_validator

from bitsmith_core.spec.job import (
    EvaluateMethod,
    JobBasics,
    JobSpec,
    LoraMethod,
    QloraMethod,
    QsftMethod,
    QsftSettings,
    QuantizeMethod,
)
from bitsmith_core.spec.strict import Strict
from bitsmith_core.spec.training import DiodeMix, Training

TARGET_EPOCHS = 3
FEWEST_READ, MOST_READ = 100, 25_000  # examples over all epochs
MOST_EPOCHS = 25
STEPS_OF_AN_EPOCH = 25
MAX_PRIORITY = 100


def _auto(value: object) -> object:
    return None if value == "auto" else value


def _or_auto(kind: str, **bounds: float) -> Any:
    return WithJsonSchema({"anyOf": [{"const": "auto", "type": "string"}, {"type": kind, **bounds}]})


_AUTO: Any = Field(default=None, json_schema_extra={"default": "auto"})


class SupervisedHyperparameters(Strict):
    """OpenAI's three; None stands for "auto"."""

    n_epochs: Annotated[
        int | None, Field(ge=1, le=100), BeforeValidator(_auto), _or_auto("integer", minimum=1, maximum=100)
    ] = _AUTO
    batch_size: Annotated[
        int | None, Field(ge=1, le=4096), BeforeValidator(_auto), _or_auto("integer", minimum=1, maximum=4096)
    ] = _AUTO
    learning_rate_multiplier: Annotated[
        float | None, Field(ge=1e-6, le=100), BeforeValidator(_auto), _or_auto("number", minimum=1e-6, maximum=100)
    ] = _AUTO


class Supervised(Strict):
    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class SupervisedMethod(Strict):
    """OpenAI's method: Q-SFT with its defaults."""

    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Supervised()


RequestMethod = Annotated[
    QsftMethod | QuantizeMethod | LoraMethod | QloraMethod | EvaluateMethod | SupervisedMethod,
    Field(discriminator="type"),
]


class JobRequest(JobBasics):
    """What `POST /v1/fine_tuning/jobs` takes; a null is the same as leaving the field out."""

    method: RequestMethod = QsftMethod()
    priority: int = Field(
        default=0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="higher goes first; may be changed later"
    )
    hyperparameters: SupervisedHyperparameters | None = Field(
        default=None, description="OpenAI's older place for those of the method `supervised`"
    )
    integrations: list[JsonValue] = Field(default=[], description="none is supported; webhooks tell other services")

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: Any) -> Any:
        return {name: given for name, given in value.items() if given is not None} if isinstance(value, dict) else value

    @field_validator("integrations")
    @classmethod
    def _none_is_supported(cls, integrations: list[JsonValue]) -> list[JsonValue]:
        if integrations:
            raise ValueError("no integration is supported; a webhook can tell another service of this job")
        return integrations

    @field_validator("hyperparameters")
    @classmethod
    def _belong_to_supervised(cls, value: SupervisedHyperparameters | None, info: Any) -> Any:
        if value is not None and isinstance(info.data.get("method"), SupervisedMethod):
            raise ValueError("the method has hyperparameters of its own; give them there only")
        return value

    @model_validator(mode="after")
    def _hyperparameters_fit_the_method(self) -> Self:
        has_own_settings = "method" in self.model_fields_set and not isinstance(self.method, SupervisedMethod)
        if self.hyperparameters is not None and has_own_settings:
            raise ValueError(
                f"hyperparameters belong to the method supervised; {self.method.type} has settings of its own"
            )
        return self

    @property
    def is_supervised(self) -> bool:
        """Whether `spec` depends on how many examples there are."""
        return isinstance(self.method, SupervisedMethod) or self.hyperparameters is not None

    def spec(self, *, examples: int) -> JobSpec:
        """The job that is asked for, with every "auto" decided.

        Args:
            examples: how many the training file holds.
        """
        method = self.method
        if self.is_supervised:
            wanted = method.supervised.hyperparameters if isinstance(method, SupervisedMethod) else self.hyperparameters
            assert wanted is not None
            training = supervised_training(wanted, examples=self.trained_examples(examples))
            method = QsftMethod(qsft=QsftSettings(training=training))
        assert not isinstance(method, SupervisedMethod)
        return JobSpec(**self._basics(), method=method)

    def evaluation(self, *, version: str, base_model: str) -> JobSpec:
        """The evaluation that is asked for, of exactly this version.

        Args:
            base_model: that the version was made from.
        """
        assert isinstance(self.method, EvaluateMethod)
        settings = self.method.evaluate.model_copy(update={"version": version})
        basics = self._basics() | {"model": base_model}
        return JobSpec(**basics, method=self.method.model_copy(update={"evaluate": settings}))

    def _basics(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in JobBasics.model_fields}


def supervised_training(hyperparameters: SupervisedHyperparameters, *, examples: int) -> Training:
    epochs = hyperparameters.n_epochs or auto_epochs(examples)
    batch_size = hyperparameters.batch_size or auto_batch_size(examples)
    factor = hyperparameters.learning_rate_multiplier or 1.0
    default = DiodeMix()
    return Training(
        epochs=epochs,
        batch_size=batch_size,
        optimizer=DiodeMix(
            scale_learning_rate=default.scale_learning_rate * factor,
            code_learning_rate=default.code_learning_rate * factor,
            float_learning_rate=default.float_learning_rate * factor,
        ),
    )


def learning_rate_multiplier(optimizer: DiodeMix) -> float:
    """What OpenAI's clients are told of the scales' learning rate."""
    return optimizer.scale_learning_rate / DiodeMix().scale_learning_rate


def auto_epochs(examples: int) -> int:
    examples = max(1, examples)
    if examples * TARGET_EPOCHS < FEWEST_READ:
        return min(MOST_EPOCHS, FEWEST_READ // examples)
    if examples * TARGET_EPOCHS > MOST_READ:
        return max(1, MOST_READ // examples)
    return TARGET_EPOCHS


def auto_batch_size(examples: int) -> int:
    steps = max(1, examples // STEPS_OF_AN_EPOCH)
    return min(8, 1 << (steps.bit_length() - 1))
