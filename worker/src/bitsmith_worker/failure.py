"""Why an attempt failed, carried to the one place that tells Postgres."""

from bitsmith_core.wire import Failed, FailureClass


class AttemptFailed(Exception):
    def __init__(self, failure: FailureClass, code: str, message: str) -> None:
        super().__init__(message)
        self.line = Failed(failure=failure, code=code, message=message)
