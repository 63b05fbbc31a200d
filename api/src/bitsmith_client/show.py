"""Numbers and tables for people: always the error beside the score, always both bits-per-weight."""

import math
from collections.abc import Mapping, Sequence, Set
from datetime import datetime

from rich.console import Console
from rich.table import Table

from bitsmith_client.sdk import (
    Alias,
    AliasMove,
    ApiKey,
    Attempt,
    Checkpoint,
    Comparison,
    Delivery,
    DryRun,
    File,
    Job,
    Model,
    Project,
    Score,
    Series,
    StageFacts,
    Version,
    Webhook,
    Worker,
)

SUBJECTS = {"float": "float base", "quantized": "quantized", "qsft": "Q-SFT", "lora": "LoRA", "qlora": "QLoRA"}
TASKS = {"answer_perplexity": "validation perplexity", "answer_choice": "multiple choice"}


def duration(seconds: float) -> str:
    """1.4 s, 12 s, 3:07, 1:02:09."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(n_bytes: float) -> str:
    """512 B, 66.2 MB, 3.1 GB: powers of ten, as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"


def score(found: Score) -> str:
    """31.42 ± 0.61 (n=2,950 tokens); shares as per cent."""
    scale, unit, digits = (100.0, " %", 1) if found.metric == "accuracy" else (1.0, "", 2)
    error = "" if found.stderr is None else f" ± {found.stderr * scale:.{digits}f}"
    return f"{found.value * scale:.{digits}f}{error}{unit} (n={found.n:,} {found.n_unit})"


def day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def jobs_table(jobs: Sequence[Job]) -> Table:
    table = _table("job", "status", "stage", "base model", "result", "created")
    for job in jobs:
        stage = job.stage or ""
        if job.status == "running" and job.progress.total:
            stage += f" {job.progress.done}/{job.progress.total}"
        outcome = job.fine_tuned_model or (job.error.message if job.error else "")
        table.add_row(
            job.id, job.status, stage if job.status == "running" else "", job.model, outcome, day(job.created_at)
        )
    return table


def dry_run(found: DryRun, console: Console) -> None:
    """What a job needs, largest part first, and what speaks against it."""
    if found.estimate is not None:
        estimate = found.estimate
        table = _table("stage", "part", "memory", right={"memory"})
        for stage in estimate.stages:
            table.add_row(stage.stage, "[bold]in all[/bold]", size(stage.bytes))
            for part in sorted(stage.parts, key=lambda part: -part.bytes):
                table.add_row("", part.name, size(part.bytes))
        console.print(table)
        console.print(
            f"peak {size(estimate.peak_bytes)} on {estimate.device}; {estimate.steps} steps over {estimate.tokens:,} "
            f"tokens, about {duration(estimate.training_s)} of training (confidence: {estimate.confidence})"
        )
    for warning in found.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    for error in found.errors:
        console.print(f"error: {error.pointer}: {error.detail}", markup=False, soft_wrap=True)


def series_table(series: Sequence[Series]) -> Table:
    table = _table("metric", "stage", "attempt", "points", "steps", "first", "lowest", "highest", "last")
    for one in series:
        values = [one.values[0], min(one.values), max(one.values), one.values[-1]]
        steps = f"{one.steps[0]}-{one.steps[-1]}"
        table.add_row(
            one.name, one.stage, str(one.attempt), f"{one.total_points:,}", steps, *(f"{value:.5g}" for value in values)
        )
    return table


def checkpoints_table(checkpoints: Sequence[Checkpoint]) -> Table:
    table = _table("checkpoint", "stage", "step", "attempt", "size", "loss", "created", right={"step", "size"})
    for one in checkpoints:
        loss = one.measured.get("loss")
        table.add_row(
            one.id,
            one.stage,
            str(one.step_number) if one.step_number else "finished",
            str(one.attempt),
            size(one.bytes),
            "" if loss is None else f"{loss:.4f}",
            day(one.created_at),
        )
    return table


def attempts_table(attempts: Sequence[Attempt]) -> Table:
    table = _table("attempt", "worker", "outcome", "stage", "steps", "peak memory", "device time", "began", "why")
    for one in attempts:
        steps = "" if one.end_step is None else f"{one.start_step or 0}-{one.end_step}"
        table.add_row(
            str(one.number),
            one.worker,
            one.outcome or "running",
            one.stage or "",
            steps,
            "" if one.peak_memory_bytes is None else size(one.peak_memory_bytes),
            duration(one.gpu_seconds),
            day(one.started_at),
            one.reason_message or "",
        )
    return table


def files_table(files: Sequence[File]) -> Table:
    table = _table("file", "name", "examples", "size", "created", right={"examples", "size"})
    for file in files:
        table.add_row(file.id, file.filename, f"{file.examples:,}", size(file.bytes), day(file.created_at))
    return table


def models_table(models: Sequence[Model]) -> Table:
    table = _table("model", "base", "size", "bpw_codes", "bpw_effective", "score", "created", "aliases", right={"size"})
    for model in models:
        latest = model.latest
        if latest is None:
            table.add_row(model.id, model.base_model, "", "", "", "", day(model.created), "")
            continue
        best = [found for found in latest.scores if found.subject == _trained(latest)]
        headline = f"{_task(best[0])} {score(best[0])}{_change(best[0])}" if best else ""
        weight = size(latest.bytes if latest.weights_bytes is None else latest.weights_bytes)
        aliases = " ".join(f"{alias}={number}" for alias, number in model.aliases.items())
        table.add_row(latest.id, model.base_model, weight, *_bits(latest), headline, day(latest.created_at), aliases)
    return table


def versions_table(versions: Sequence[Version]) -> Table:
    table = _table("version", "job", "size", "bpw_codes", "bpw_effective", "created", right={"size"})
    for version in versions:
        table.add_row(version.id, version.job_id, size(version.bytes), *_bits(version), day(version.created_at))
    return table


def scores_table(version: Version) -> Table:
    """A row for each thing that was scored, with what it weighs."""
    tasks = list(dict.fromkeys((found.task, found.metric) for found in version.scores))
    headings = {(s.task, s.metric): f"{_task(s)} {'↑' if s.higher_is_better else '↓'}" for s in version.scores}
    table = _table("", *(headings[task] for task in tasks), "weights", "bpw_codes", "bpw_effective", right={"weights"})
    facts = version.quantization or {}
    for subject in SUBJECTS:
        by_task = {(found.task, found.metric): found for found in version.scores if found.subject == subject}
        if not by_task:
            continue
        is_float = subject == "float"
        weight = facts.get("float_bytes" if is_float else "model_bytes")
        table.add_row(
            SUBJECTS[subject],
            *(score(by_task[task]) if task in by_task else "" for task in tasks),
            "-" if weight is None else size(weight),
            *(("16", "16") if is_float else _bits(version)),
        )
    return table


def about(model: Model) -> list[str]:
    """What people wrote of it, a line each; its card has a command of its own."""
    facts = {
        "called": model.display_name,
        "licence": model.licence,
        "tags": " ".join(model.tags),
        "aliases": " ".join(f"{alias}={number}" for alias, number in model.aliases.items()),
    }
    return [f"{name}: {told}" for name, told in facts.items() if told]


def comparison_table(found: Comparison) -> Table:
    table = _table("task", found.a, found.b, "difference", "p", "n", "verdict", right={"n"})
    for task in found.tasks:
        sides = ("" if value is None else f"{value:.4g}" for value in (task.a, task.b))
        error = "" if task.stderr is None else f" ± {task.stderr:.2g}"
        change = "" if task.difference is None else f"{task.difference:+.3g}{error}"
        p_value = "" if task.p_value is None else f"{task.p_value:.2g}"
        verdict = task.verdict if task.reason is None else f"{task.verdict}: {task.reason}"
        table.add_row(task.task, *sides, change, p_value, "" if task.n is None else f"{task.n:,}", verdict)
    return table


def aliases_table(aliases: Sequence[Alias]) -> Table:
    table = _table("alias", "version", "moved", "by", right={"version"})
    for alias in aliases:
        table.add_row(alias.id, str(alias.version), day(alias.updated_at), alias.updated_by or "")
    return table


def alias_moves_table(moves: Sequence[AliasMove]) -> Table:
    table = _table("when", "from", "to", "by", "reason", "gate")
    for move in moves:
        ends = ("-" if number is None else str(number) for number in (move.from_version, move.to_version))
        gate = "" if move.gate is None else str(move.gate.get("summary", ""))
        table.add_row(day(move.created_at), *ends, move.actor or "", move.reason or "", gate)
    return table


def stages_table(stages: Sequence[StageFacts]) -> Table:
    table = _table("stage", "wall time", "peak memory so far", right={"wall time", "peak memory so far"})
    for stage in stages:
        how = " (earlier attempt)" if stage.resumed else ""
        table.add_row(stage.stage + how, duration(stage.wall_s), size(stage.peak_memory_bytes))
    return table


def _trained(version: Version) -> str:
    subjects = {found.subject for found in version.scores}
    return next((subject for subject in ("qsft", "lora", "qlora") if subject in subjects), "quantized")


def _task(found: Score) -> str:
    return TASKS.get(found.task, f"{found.task} {found.metric}")


def _change(found: Score) -> str:
    """How it differs from the float base it came from, where the two may be compared."""
    if found.difference is None:
        return ""
    scale, digits = (100.0, 1) if found.metric == "accuracy" else (1.0, 2)
    return f" ({found.difference * scale:+.{digits}f} to its base)"


def _bits(version: Version) -> tuple[str, str]:
    codes, effective = ("-" if bits is None else f"{bits:.2f}" for bits in (version.bpw_codes, version.bpw_effective))
    return codes, effective


def keys_table(keys: Sequence[ApiKey]) -> Table:
    table = _table("key", "name", "role", "scopes", "last used", "expires", "state")
    for key in keys:
        scopes = " ".join(key.scopes) or "all of the role"
        table.add_row(key.id, key.name, key.role, scopes, day(key.last_used_at), day(key.expires_at), key.state)
    return table


def projects_table(projects: Sequence[Project]) -> Table:
    table = _table("project", "name", "state", "weight", "limits of its own", right={"weight"})
    for project in projects:
        table.add_row(project.id, project.name, project.status, f"{project.weight:g}", limits(project.limits))
    return table


def webhooks_table(webhooks: Sequence[Webhook]) -> Table:
    table = _table("webhook", "address", "events", "state", "failures in a row", "created", right={"failures in a row"})
    for one in webhooks:
        events = " ".join(one.events) or "everything"
        state = "enabled" if one.enabled else "disabled"
        table.add_row(one.id, one.url, events, state, str(one.failures), day(one.created_at))
    return table


def deliveries_table(deliveries: Sequence[Delivery]) -> Table:
    table = _table("delivery", "event", "of", "status", "attempts", "answer", "next attempt", "why", right={"attempts"})
    for one in deliveries:
        answer = "" if one.response_status is None else str(one.response_status)
        of = str(one.payload.get("data", {}).get("id", ""))
        table.add_row(
            one.id, one.type, of, one.status, str(one.attempts), answer, day(one.next_attempt_at), one.error or ""
        )
    return table


def workers_table(workers: Sequence[Worker]) -> Table:
    table = _table("worker", "pool", "state", "job", "device", "memory", "last seen", right={"memory"})
    for one in workers:
        table.add_row(
            one.id,
            one.pool,
            one.status + (", draining" if one.is_draining else ""),
            one.job_id or "",
            one.device if one.devices == 1 else f"{one.devices} x {one.device}",
            "" if one.memory_bytes is None else size(one.memory_bytes),
            day(one.last_seen_at),
        )
    return table


def limits(own: Mapping[str, int | None]) -> str:
    """open_jobs=5 running_jobs=1; nothing if all are the installation's."""
    return " ".join(f"{name}={value}" for name, value in own.items() if value is not None)


def _table(*headings: str, right: Set[str] = frozenset()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        # The first column is what people copy into the next command.
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold", no_wrap=number == 0)
    return table
