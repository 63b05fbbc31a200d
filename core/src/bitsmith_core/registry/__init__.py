"""The registry of quantized checkpoints."""

from bitsmith_core.db.models import EvalResult, Model, Version
from bitsmith_core.registry.service import count_versions, get, get_version, page, publish, results_of

__all__ = [
    "EvalResult", "Model", "Version", "count_versions", "get", "get_version", "page", "publish", "results_of",
]  # fmt: skip
