"""Every way an engine run ends early on purpose; each carries the class that decides about a retry.

EngineError
|-- Stopped              asked to (SIGTERM); nothing is lost
|-- BadSpec              config: the spec file itself is unreadable
|-- BadModel             config: the base cannot be used
|-- NoDevice             config: the spec wants a device that is not here
|-- MissingPackage       config: the spec wants what this installation leaves out
|-- BadData              data
|-- Diverged             divergence: the loss became NaN or infinite
|-- OutOfSpace           resource: memory
|-- DiskFull             resource: disk
|-- RankLost             infra: another process of the run is gone
|-- RanksMissing         infra: it never came
`-- ToldBy               what another process said of its own failure, which ended this one
"""

from typing import ClassVar

from bitsmith_core.errors import BitsmithError
from bitsmith_core.wire import Failed, FailureClass


class EngineError(BitsmithError):
    code: ClassVar[str] = "engine_error"
    failure: ClassVar[FailureClass] = FailureClass.UNKNOWN


class Stopped(EngineError):
    code = "stopped"
    failure = FailureClass.YIELD


class BadSpec(EngineError):
    code = "invalid_spec"
    failure = FailureClass.CONFIG


class BadModel(EngineError):
    code = "unusable_model"
    failure = FailureClass.CONFIG


class NoDevice(EngineError):
    code = "device_unavailable"
    failure = FailureClass.CONFIG


class MissingPackage(EngineError):
    code = "package_missing"
    failure = FailureClass.CONFIG


class BadData(EngineError):
    code = "unusable_data"
    failure = FailureClass.DATA


class Diverged(EngineError):
    code = "loss_not_finite"
    failure = FailureClass.DIVERGENCE


class OutOfSpace(EngineError):
    code = "out_of_space"
    failure = FailureClass.RESOURCE


class DiskFull(EngineError):
    code = "disk_full"
    failure = FailureClass.RESOURCE


class RankLost(EngineError):
    code = "rank_lost"
    failure = FailureClass.INFRA


class RanksMissing(EngineError):
    code = "ranks_missing"
    failure = FailureClass.INFRA


class ToldBy(EngineError):
    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


def failed_line(error: Exception) -> Failed:
    """What the engine says last of an error that ends it."""
    if isinstance(error, ToldBy):
        return error.failed
    if isinstance(error, EngineError):
        return Failed(failure=error.failure, code=error.code, message=str(error))
    return Failed(failure=FailureClass.UNKNOWN, code="crashed", message=f"{type(error).__name__}: {error}")
