"""A job as it happens: events make a view, a view makes a picture or lines. Only `watch` touches a terminal."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from rich.console import Console, ConsoleRenderable, Group, RichCast
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bitsmith_client.sdk import Bitsmith, Event, Job
from bitsmith_client.show import duration

LINE_EVERY = timedelta(seconds=10)  # of progress, where lines cannot be overwritten
KEPT_NOTES = 5

MARKS = {"running": "…", "done": "✓", "resumed": "↻", "failed": "✗"}
STYLES = {"running": "bold cyan", "done": "green", "resumed": "green", "failed": "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    name: str
    state: str = "running"  # a key of MARKS
    started_at: datetime
    wall_s: float | None = None
    peak_memory_bytes: int | None = None
    done: int = 0
    total: int = 0
    eta_s: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything a person sees of a job, folded from its events."""

    job_id: str
    status: str = "queued"
    attempt: int = 0
    seq: int = 0
    stages: tuple[StageView, ...] = ()
    notes: tuple[str, ...] = ()
    result: str | None = None  # name@version
    error: str | None = None


def apply(view: View, event: Event) -> View:
    """The view after one more event. Unknown events change nothing but the place in the history."""
    view = replace(view, seq=event.seq)
    data = event.data
    match event.name:
        case "job.started":
            return replace(view, status="running", attempt=int(data.get("attempt", view.attempt + 1)))
        case "job.cancel_requested":
            return _noted(replace(view, status="cancelling"), event.message)
        case "job.pause_requested":
            return _noted(replace(view, status="pausing"), event.message)
        case "job.paused":
            return replace(view, status="paused", stages=_left(view.stages))
        case "job.resumed":  # from a pause, or before there was one
            return _noted(replace(view, status="running" if view.status == "pausing" else "queued"), event.message)
        case "job.requeued":
            return _noted(replace(view, status="queued", stages=_left(view.stages)), event.message)
        case "job.failed":
            return replace(view, status="failed", error=event.message, stages=_left(view.stages))
        case "job.cancelled":
            return replace(view, status="cancelled", stages=_left(view.stages))
        case "job.succeeded":
            return replace(view, status="succeeded", result=str(data.get("result", "")) or None)
        case "stage.started":
            return _put(view, StageView(name=str(data["stage"]), started_at=event.created_at))
        case "stage.finished":
            stage = _stage(view, str(data["stage"])) or StageView(name=str(data["stage"]), started_at=event.created_at)
            finished = replace(
                stage,
                state="resumed" if data.get("resumed") else "done",
                wall_s=data.get("wall_s"),
                peak_memory_bytes=data.get("peak_memory_bytes"),
                eta_s=None,
            )
            return _put(view, finished)
        case "progress":
            stage = _stage(view, str(data["stage"])) or StageView(name=str(data["stage"]), started_at=event.created_at)
            further = replace(
                stage,
                done=int(data.get("done", 0)),
                total=int(data.get("total", 0)),
                eta_s=data.get("eta_s"),
                metrics={**stage.metrics, **data.get("metrics", {})},
            )
            return _put(view, further)
        case "note":
            return _noted(view, event.message)
        case _:
            return view


def _stage(view: View, name: str) -> StageView | None:
    return next((stage for stage in view.stages if stage.name == name), None)


def _put(view: View, stage: StageView) -> View:
    """A stage begun again by another attempt takes its old place."""
    if _stage(view, stage.name) is None:
        return replace(view, stages=(*view.stages, stage))
    return replace(view, stages=tuple(stage if known.name == stage.name else known for known in view.stages))


def _left(stages: tuple[StageView, ...]) -> tuple[StageView, ...]:
    return tuple(replace(stage, state="failed", eta_s=None) if stage.state == "running" else stage for stage in stages)


def _noted(view: View, note: str) -> View:
    return replace(view, notes=(*view.notes, note)[-KEPT_NOTES:])


def figures(stage: StageView) -> str:
    """What a stage measures, in the words of this field."""
    shown = []
    metrics = dict(stage.metrics)
    if (loss := metrics.pop("loss", None)) is not None:
        shown.append(f"loss {loss:.4f}")
    if (flips := metrics.pop("flips", None)) is not None:
        shown.append(f"flips {flips:,.0f}")
    if (flip_rate := metrics.pop("flip_rate", None)) is not None:
        shown.append(f"flip rate {flip_rate:.3%}")
    if (speed := metrics.pop("tokens_per_s", None)) is not None:
        shown.append(f"{speed:,.0f} tokens/s")
    shown += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()]
    return "  ".join(shown)


def picture(view: View, now: datetime) -> ConsoleRenderable:
    head = Text.assemble((view.job_id, "bold"), "  ", (view.status, STYLES.get(_mood(view.status), "bold cyan")))
    if view.attempt > 1:
        head.append(f"  attempt {view.attempt}")
    table = Table.grid(padding=(0, 2))
    for stage in view.stages:
        table.add_row(
            Text(MARKS[stage.state], STYLES[stage.state]),
            stage.name,
            Text(_clock(stage, now), "dim", justify="right"),
            ProgressBar(total=max(stage.total, 1), completed=stage.done, width=24) if _has_bar(stage) else "",
            f"{stage.done}/{stage.total}" if stage.total else "",
            f"ETA {duration(stage.eta_s)}" if stage.eta_s is not None and stage.state == "running" else "",
            figures(stage),
        )
    parts: list[ConsoleRenderable | RichCast | str] = [head, table, *(Text(f"  {n}", "yellow") for n in view.notes)]
    if view.error:
        parts.append(Text(view.error, "bold red"))
    if view.result:
        parts.append(Text(f"published as {view.result}", "bold green"))
    return Group(*parts)


def _mood(status: str) -> str:
    return {"succeeded": "done", "failed": "failed", "cancelled": "failed"}.get(status, "running")


def _has_bar(stage: StageView) -> bool:
    return stage.state == "running" and stage.total > 0


def _clock(stage: StageView, now: datetime) -> str:
    if stage.wall_s is not None:
        return duration(stage.wall_s)
    return duration(max(0.0, (now - stage.started_at).total_seconds())) if stage.state == "running" else ""


class Lines:
    """Events as lines for logs: everything that happens, but progress only now and then and at the end of a stage."""

    def __init__(self) -> None:
        self._shown_at: dict[str, datetime] = {}

    def line(self, event: Event) -> str | None:
        time = f"{event.created_at:%H:%M:%S}"
        if event.name != "progress":
            return f"{time} {event.message}"
        stage = apply(View(job_id=""), event).stages[0]
        last = self._shown_at.get(stage.name)
        if last is not None and event.created_at - last < LINE_EVERY and stage.done < stage.total:
            return None
        self._shown_at[stage.name] = event.created_at
        eta = f"  ETA {duration(stage.eta_s)}" if stage.eta_s else ""
        return f"{time} {event.message}{eta}  {figures(stage)}".rstrip()


def watch(bitsmith: Bitsmith, job_id: str, console: Console) -> Job:
    """Show the job until it is over, from its first event on; answers with the job as it ended."""
    events = bitsmith.jobs.follow(job_id)
    if console.is_terminal:
        _watch_live(events, job_id, console)
    else:
        lines = Lines()
        for event in events:
            if (line := lines.line(event)) is not None:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return bitsmith.jobs.get(job_id)


class _Screen:
    """Drawn anew by rich several times a second, so that clocks run while no event comes."""

    def __init__(self, job_id: str) -> None:
        self.view = View(job_id=job_id)

    def __rich__(self) -> ConsoleRenderable:
        return picture(self.view, datetime.now(UTC))


def _watch_live(events: Iterator[Event], job_id: str, console: Console) -> None:
    screen = _Screen(job_id)
    with Live(screen, console=console, refresh_per_second=4):
        for event in events:
            screen.view = apply(screen.view, event)
