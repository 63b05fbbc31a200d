"""The public contract: what a job is and what its data look like."""

from bitsmith_core.spec.held_out import held_out_count, hold_out
from bitsmith_core.spec.job import (
    EvaluateMethod,
    EvaluateSettings,
    JobBasics,
    JobSpec,
    Labels,
    LoraMethod,
    LoraSettings,
    Method,
    QloraMethod,
    QsftMethod,
    QsftSettings,
    QuantizeMethod,
    QuantizeSettings,
)
from bitsmith_core.spec.openai import JobRequest, SupervisedHyperparameters, SupervisedMethod
from bitsmith_core.spec.outputs import BenchmarkTask, Evaluation, Export, MultipleChoice, Resources, TaskName
from bitsmith_core.spec.quantization import (
    ChannelMixQuantization,
    Distillation,
    InitialCodes,
    LayerMixQuantization,
    Quantization,
    UniformQuantization,
    Width,
)
from bitsmith_core.spec.records import Record, Turn, parse_object, parse_record, read_lines, read_records
from bitsmith_core.spec.references import base_slug, hub_reference, local_path
from bitsmith_core.spec.training import DiodeMix, EarlyStopping, LoraTraining, Training

__all__ = [
    "BenchmarkTask",
    "ChannelMixQuantization",
    "DiodeMix",
    "Distillation",
    "EarlyStopping",
    "EvaluateMethod",
    "EvaluateSettings",
    "Evaluation",
    "Export",
    "InitialCodes",
    "JobBasics",
    "JobRequest",
    "JobSpec",
    "Labels",
    "LayerMixQuantization",
    "LoraMethod",
    "LoraSettings",
    "LoraTraining",
    "Method",
    "MultipleChoice",
    "QloraMethod",
    "QsftMethod",
    "QsftSettings",
    "Quantization",
    "QuantizeMethod",
    "QuantizeSettings",
    "Record",
    "Resources",
    "SupervisedHyperparameters",
    "SupervisedMethod",
    "TaskName",
    "Training",
    "Turn",
    "UniformQuantization",
    "Width",
    "base_slug",
    "held_out_count",
    "hold_out",
    "hub_reference",
    "local_path",
    "parse_object",
    "parse_record",
    "read_lines",
    "read_records",
]
