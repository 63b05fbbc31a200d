"""The registry of quantized checkpoints."""

from bitsmith_core.db.models import Alias, AliasMove, Eval, EvalResult, Model, Version, VersionFile
from bitsmith_core.registry import blobs
from bitsmith_core.registry.lookup import model as get
from bitsmith_core.registry.lookup import version as get_version
from bitsmith_core.registry.removal import delete
from bitsmith_core.registry.service import (
    Outcome,
    count_versions,
    facts_of_base,
    outcomes_of,
    publish,
    results_of,
)
from bitsmith_core.registry.sweep import sweep

__all__ = [
    "Alias",
    "AliasMove",
    "Eval",
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
    "publish",
    "results_of",
    "sweep",
]
