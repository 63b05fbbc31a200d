"""The public contract: what a job is and what its data look like."""

from bitsmith_core.spec.job import JobSpec, Method, QsftMethod, QsftSettings, QuantizeMethod, QuantizeSettings
from bitsmith_core.spec.outputs import Evaluation, Export, MultipleChoice, Resources
from bitsmith_core.spec.quantization import LayerMixQuantization, Quantization, UniformQuantization
from bitsmith_core.spec.records import Record, Turn, parse_record, read_records
from bitsmith_core.spec.references import base_slug, hub_reference, local_path
from bitsmith_core.spec.training import DiodeMix, Training

__all__ = [
    "DiodeMix",
    "Evaluation",
    "Export",
    "JobSpec",
    "LayerMixQuantization",
    "Method",
    "MultipleChoice",
    "QsftMethod",
    "QsftSettings",
    "Quantization",
    "QuantizeMethod",
    "QuantizeSettings",
    "Record",
    "Resources",
    "Training",
    "Turn",
    "UniformQuantization",
    "base_slug",
    "hub_reference",
    "local_path",
    "parse_record",
    "read_records",
]
