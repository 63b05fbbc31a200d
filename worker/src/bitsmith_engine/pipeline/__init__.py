"""One job from spec to bundle."""

from bitsmith_engine.pipeline.order import run

__all__ = ["run"]
