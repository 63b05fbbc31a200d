"""Why an order is not answered. Each becomes one Refused line; the message says what to do."""

from typing import ClassVar

from bitsmith_core.errors import BitsmithError


class NoAnswer(BitsmithError):
    code: ClassVar[str] = "no_answer"
    is_retryable: ClassVar[bool] = False


class NotChattable(NoAnswer):
    """The version's files are not what an engine can open."""

    code = "model_not_chattable"


class TooLarge(NoAnswer):
    code = "model_too_large"


class Busy(NoAnswer):
    code = "busy"
    is_retryable = True


class FilesUnavailable(NoAnswer):
    code = "model_files_unavailable"
    is_retryable = True


class EngineFailed(NoAnswer):
    """The engine said why it does not start."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = code


class EngineDied(NoAnswer):
    code = "engine_died"
    is_retryable = True
