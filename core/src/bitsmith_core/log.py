"""Structured logging: one JSON object a line on stderr, with the job id bound once at the edge."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_API_KEY = re.compile(r"(bsk_[0-9a-v]{26})_[0-9a-f]{16,64}")


def without_secrets(text: str) -> str:
    """API keys lose their secret part; what is left still says whose key it was."""
    return _API_KEY.sub(r"\1_…", text)


def configure_logging(level: str = "INFO") -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _hide_secrets(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A key that somebody put into a path or a name ends up in messages; it must not stay there."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_secrets(value)
    return event


def get_logger() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


bind_job = structlog.contextvars.bound_contextvars
