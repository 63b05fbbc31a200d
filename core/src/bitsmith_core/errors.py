"""Every error the platform raises on purpose.

BitsmithError
|-- Permanent               same input, same failure; never retried
|   |-- Invalid             the request asks for something impossible; names each place
|   |   |-- InvalidSpec
|   |   |-- InvalidFile
|   |   `-- InvalidUpload   parts that do not make the whole that was announced
|   |-- NotFound
|   |-- Unauthorized        nobody knows who asks
|   |-- Forbidden           it is known who asks, and they may not
|   |-- PreconditionFailed  it changed since the client last saw it
|   `-- Conflict            the state forbids it, e.g. cancelling a finished job
|       |-- IllegalTransition
|       |-- GateRefused     a version is significantly worse than its alias' gate allows
|       |-- IdempotencyMismatch
|       |-- StillAnswering  a request with the same Idempotency-Key is being answered
|       `-- LeaseLost       another attempt owns the job now; write nothing more
`-- Transient               retried with back-off
    |-- QuotaExceeded       the project has as much as it may; something must go first
    |-- FilesGone           bytes that a version was to have were swept away; they are sent again
    |-- StoreUnavailable
    |-- QueueUnavailable
    `-- DatabaseUnavailable

The class decides what happens next, `code` is stable for machines, the message
is for a person. HTTP is known in bitsmith_api.errors only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One place in the input that is wrong."""

    pointer: str  # JSON pointer into the request ("/method/qsft/...") or "line 7" of a file
    code: str
    detail: str


class BitsmithError(Exception):
    code: ClassVar[str] = "error"


class Permanent(BitsmithError):
    code = "permanent"


class Transient(BitsmithError):
    code = "transient"


class Invalid(Permanent):
    """Bad input, with every place that is wrong."""

    code = "invalid"

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class InvalidSpec(Invalid):
    code = "invalid_spec"


class InvalidFile(Invalid):
    code = "invalid_file"


class InvalidUpload(Invalid):
    code = "invalid_upload"


class NotFound(Permanent):
    code = "not_found"


class Unauthorized(Permanent):
    code = "unauthorized"


class Forbidden(Permanent):
    code = "forbidden"


class PreconditionFailed(Permanent):
    code = "precondition_failed"


class Conflict(Permanent):
    code = "conflict"


class IllegalTransition(Conflict):
    code = "illegal_transition"

    def __init__(self, job_id: str, current: str, wanted: str) -> None:
        super().__init__(f"job {job_id} is {current} and cannot become {wanted}")
        self.job_id, self.current, self.wanted = job_id, current, wanted


class GateRefused(Conflict):
    code = "gate_refused"

    def __init__(self, message: str, *, report: Mapping[str, Any]) -> None:
        """
        Args:
            report: what was compared and found, as JSON.
        """
        super().__init__(message)
        self.report = report


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class StillAnswering(Conflict):
    code = "idempotency_in_progress"


class LeaseLost(Conflict):
    code = "lease_lost"

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(f"attempt {epoch} no longer owns job {job_id}")
        self.job_id, self.epoch = job_id, epoch


class QuotaExceeded(Transient):
    code = "quota_exceeded"


class FilesGone(Transient):
    code = "files_gone"


class StoreUnavailable(Transient):
    code = "store_unavailable"


class QueueUnavailable(Transient):
    code = "queue_unavailable"


class DatabaseUnavailable(Transient):
    code = "database_unavailable"
