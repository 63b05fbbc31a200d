"""The registry of quantized checkpoints."""

from bitsmith_core.db.models import EvalResult, Model, Version, VersionFile
from bitsmith_core.registry import blobs
from bitsmith_core.registry.service import (
    Outcome,
    count_versions,
    delete,
    facts_of_base,
    get,
    get_version,
    outcomes_of,
    page,
    publish,
    results_of,
)
from bitsmith_core.registry.sweep import sweep

__all__ = [
    "EvalResult",
    "Model",
    "Outcome",
    "Version",
    "VersionFile",
    "blobs",
    "count_versions",
    "delete",
    "facts_of_base",
    "get",
    "get_version",
    "outcomes_of",
    "page",
    "publish",
    "results_of",
    "sweep",
]
