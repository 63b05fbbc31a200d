"""Who asks, and what they were answered before."""

from bitsmith_core.identity.answers import Answer, forget_answers, known, remember, replayed

__all__ = ["Answer", "forget_answers", "known", "remember", "replayed"]
