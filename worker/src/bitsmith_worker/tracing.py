"""What traces show of an attempt: its stages, as the engine tells of them, and how it ended."""

from bitsmith_core import telemetry
from bitsmith_core.telemetry import Span, StatusCode
from bitsmith_core.wire import Failed, Line, Stage, StageFinished, StageStarted

from bitsmith_worker.heartbeat import Ending


class StageSpans:
    """Spans below the one under way, for the stages of an engine."""

    def __init__(self) -> None:
        self._open: dict[Stage, Span] = {}

    def hear(self, line: Line) -> None:
        match line:
            case StageStarted():
                self._open[line.stage] = telemetry.started(f"stage.{line.stage}")
            case StageFinished():
                span = self._open.pop(line.stage, None)
                if span is not None:
                    span.set_attribute("stage.resumed", line.resumed)
                    span.set_attribute("stage.peak_memory_bytes", line.peak_memory_bytes)
                    span.end()

    def close(self) -> None:
        """The engine is over, and with it what it was about."""
        for span in self._open.values():
            span.set_status(StatusCode.ERROR, "the engine ended in this stage")
            span.end()
        self._open.clear()


def note_outcome(span: Span, outcome: object) -> None:
    """How an attempt ended: a failure of which class, a result, or asked to end."""
    if isinstance(outcome, Failed):
        span.set_attribute("attempt.failure", outcome.failure)
        span.set_status(StatusCode.ERROR, f"{outcome.failure}: {outcome.code}")
    else:
        span.set_attribute("attempt.outcome", outcome.value if isinstance(outcome, Ending) else "published")
