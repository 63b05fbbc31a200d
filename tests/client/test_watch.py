"""What a person sees follows from the events alone, at whatever point they began to look."""

import io
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

from bitsmith_client.sdk import Event
from bitsmith_client.watch import Lines, View, apply, figures, picture
from rich.console import Console

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def event(seq: int, name: str, message: str = "", *, after_s: float = 0, **data: Any) -> Event:
    return Event(
        id=f"ftjob-1:{seq}",
        seq=seq,
        created_at=NOON + timedelta(seconds=after_s),
        level="info",
        type="metrics" if name == "progress" else "message",
        message=message,
        data={"event": name, **data},
    )


def step(seq: int, done: int, *, after_s: float = 0, **metrics: float) -> Event:
    return event(
        seq, "progress", f"Training: {done}/30", after_s=after_s, stage="training", done=done, total=30,
        eta_s=60.0 - done, metrics=metrics,
    )  # fmt: skip


def view(*events: Event) -> View:
    return reduce(apply, events, View(job_id="ftjob-1"))


def drawn(seen: View, now: datetime = NOON) -> str:
    screen = io.StringIO()
    Console(file=screen, width=160, color_system=None).print(picture(seen, now))
    return screen.getvalue()


def test_a_paused_job_stands_still_until_it_is_resumed() -> None:
    seen = view(
        event(1, "job.started", attempt=1),
        event(2, "stage.started", stage="training"),
        step(3, 10),
        event(4, "job.pause_requested", "Pause requested."),
    )
    assert seen.status == "pausing"
    assert apply(seen, event(5, "job.resumed")).status == "running"
    seen = apply(seen, event(5, "job.paused"))
    assert seen.status == "paused"
    assert drawn(seen, NOON) == drawn(seen, NOON + timedelta(hours=1))
    assert "ETA" not in drawn(seen)
    seen = apply(seen, event(6, "job.resumed", "Job resumed."))
    assert seen.status == "queued"
    assert "Job resumed." in drawn(seen)


def test_a_job_from_queue_to_registry() -> None:
    seen = view(
        event(1, "job.queued"),
        event(2, "job.started", attempt=1),
        event(3, "stage.started", stage="training"),
        step(4, 1, loss=2.5, flips=0.0),
        step(5, 30, loss=1.9, flips=4321.0, flip_rate=0.0123, tokens_per_s=1500.0),
        event(6, "stage.finished", stage="training", wall_s=187.0, peak_memory_bytes=2_000_000_000, resumed=False),
        event(7, "job.succeeded", result="smol-qsft@1"),
    )
    assert (seen.status, seen.attempt, seen.seq, seen.result) == ("succeeded", 1, 7, "smol-qsft@1")
    text = drawn(seen)
    for part in ("✓", "training", "3:07", "30/30", "loss 1.9000", "flips 4,321", "flip rate 1.230%", "1,500 tokens/s"):
        assert part in text
    assert "published as smol-qsft@1" in text
    assert "ETA" not in text


def test_a_running_stage_shows_its_clock_and_what_is_left() -> None:
    text = drawn(view(event(1, "stage.started", stage="training"), step(2, 10)), NOON + timedelta(seconds=65))
    assert "1:05" in text
    assert "10/30" in text
    assert "ETA 50 s" in text


def test_a_stage_begun_again_by_another_attempt_takes_its_old_place() -> None:
    seen = view(
        event(1, "job.started", attempt=1),
        event(2, "stage.started", stage="quantizing"),
        event(3, "stage.finished", stage="quantizing", wall_s=3.0, peak_memory_bytes=1),
        event(4, "stage.started", stage="training"),
        event(5, "job.requeued", "Worker lab stopped reporting. Trying again."),
    )
    assert seen.status == "queued"
    assert [stage.state for stage in seen.stages] == ["done", "failed"]
    seen = reduce(
        apply,
        [
            event(6, "job.started", attempt=2),
            event(7, "stage.finished", stage="quantizing", wall_s=3.0, peak_memory_bytes=1, resumed=True),
            event(8, "stage.started", stage="training"),
        ],
        seen,
    )
    assert [(stage.name, stage.state) for stage in seen.stages] == [("quantizing", "resumed"), ("training", "running")]
    assert "attempt 2" in drawn(seen)
    assert "stopped reporting" in drawn(seen)


def test_why_a_job_failed_is_on_the_screen() -> None:
    seen = view(event(1, "stage.started", stage="training"), event(2, "job.failed", "The loss became NaN at step 3."))
    assert seen.status == "failed"
    assert "The loss became NaN at step 3." in drawn(seen)


def test_who_begins_to_look_in_the_middle_sees_the_stage() -> None:
    assert view(step(9, 5, loss=2.0)).stages[0].done == 5


def test_an_event_of_a_newer_server_changes_nothing() -> None:
    assert view(event(1, "job.started", attempt=1), event(2, "job.applauded")).status == "running"


def test_metrics_nobody_knows_are_shown_under_their_own_name() -> None:
    assert figures(view(step(1, 1, grad_norm=0.51234)).stages[0]) == "grad norm 0.5123"


def test_lines_leave_out_most_progress_but_never_its_end() -> None:
    lines = Lines()
    shown = [lines.line(step(n, n, after_s=n, loss=1.0)) for n in range(1, 31)]
    assert [line.split("Training: ")[1].split("/")[0] for line in shown if line] == ["1", "11", "21", "30"]
    assert lines.line(event(31, "job.succeeded", "Published as m@1.")) == "12:00:00 Published as m@1."
