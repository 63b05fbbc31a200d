"""A registry as a team would have it after some weeks, for people to look at and for tests of the web UI.

Five base models, fifteen names, some forty versions: scores with the items they were counted from, curves with an
attempt that died, aliases with a history, and jobs in every state. Every number comes from one seed. What it draws is
made up; what it writes goes through the functions that workers use.

    BITSMITH_DATABASE_URL=… BITSMITH_STORAGE_…=… python tests/support/showcase.py
"""

import hashlib
import io
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from bitsmith_core import files, jobs, registry
from bitsmith_core.bundle import Evals, Manifest
from bitsmith_core.db import Database, Tx
from bitsmith_core.ids import DEFAULT_PROJECT, FileId, JobId
from bitsmith_core.registry import blobs
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import ObjectStore
from bitsmith_core.wire import Failed, FailureClass, Metrics, Note, Progress, Stage, StageFinished, StageStarted
from showcase_bundle import BASES, Base, Recipe, bundle
from sqlalchemy import text

SEED = 20261121
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name in the registry and the recipes of its versions, oldest first."""

    base: Base
    suffix: str
    dataset: str
    recipes: Sequence[Recipe]
    licence: str
    tags: Sequence[str]
    aliases: Sequence[tuple[str, int]] = ()
    first_day: int = 30  # days ago


def names() -> Iterator[Name]:
    qwen, llama, ministral, smol, gemma = BASES
    support, code, medical = "support-2026-10.jsonl", "code-review.jsonl", "medical-zh.jsonl"
    mix, uniform, channel = "layer-mix", "uniform", "channel-mix"
    q = Recipe
    yield Name(
        base=qwen, suffix="support", dataset=support, licence="apache-2.0", tags=["support", "english", "production"],
        recipes=[q(mix, 3.0, gain=0.5), q(mix, 2.5, gain=0.6), q(mix, 2.5, gain=0.85, resumed=True),
                 q(mix, 2.25, gain=0.8)],
        aliases=[("prod", 3), ("next", 4)], first_day=41,
    )  # fmt: skip
    yield Name(base=qwen, suffix="medical-zh", dataset=medical, licence="apache-2.0", tags=["medical", "chinese"],
               recipes=[q(mix, bits, gain=0.7) for bits in (4.0, 3.0)], aliases=[("prod", 1)],
               first_day=23)  # fmt: skip
    yield Name(base=qwen, suffix="plain", dataset=support, licence="apache-2.0", tags=["baseline"],
               recipes=[q(uniform, bits, "quantize") for bits in (4.0, 3.0, 2.0)])  # fmt: skip
    yield Name(base=qwen, suffix="lora", dataset=support, licence="apache-2.0", tags=["baseline", "support"],
               recipes=[q(None, None, "lora", gain=0.9)], first_day=19)  # fmt: skip
    yield Name(base=llama, suffix="support", dataset=support, licence="llama3.2", tags=["support", "english", "edge"],
               recipes=[q(mix, 3.0, gain=0.6), q(mix, 2.5, gain=0.7), q(channel, 2.5, gain=0.55)],
               aliases=[("edge", 2)], first_day=33)  # fmt: skip
    yield Name(base=llama, suffix="code-review", dataset=code, licence="llama3.2", tags=["code"],
               recipes=[q(mix, 3.5, gain=0.7), q(mix, 3.0, gain=0.75, resumed=True)], first_day=14)  # fmt: skip
    yield Name(base=llama, suffix="qlora", dataset=support, licence="llama3.2", tags=["baseline"],
               recipes=[q(None, None, "qlora", gain=0.8)], first_day=12)  # fmt: skip
    yield Name(base=ministral, suffix="code-review", dataset=code, licence="mistral-research", tags=["code", "english"],
               recipes=[q(mix, 4.0, gain=0.6), q(mix, 3.0, gain=0.7), q(mix, 2.5, gain=0.6)],
               aliases=[("prod", 2)], first_day=27)  # fmt: skip
    yield Name(base=ministral, suffix="plain", dataset=code, licence="mistral-research", tags=["baseline"],
               recipes=[q(uniform, 4.0, "quantize"), q(uniform, 2.0, "quantize")], first_day=26)  # fmt: skip
    yield Name(base=smol, suffix="support", dataset=support, licence="apache-2.0", tags=["support", "edge"],
               recipes=[q(mix, bits, gain=0.5 + bits / 20) for bits in (4.0, 3.5, 3.0, 2.5, 2.25, 2.0)],
               aliases=[("phone", 3)], first_day=38)  # fmt: skip
    yield Name(base=smol, suffix="code-review", dataset=code, licence="apache-2.0", tags=["code", "edge"],
               recipes=[q(mix, 3.0, gain=0.4), q(channel, 3.0, gain=0.5)], first_day=9)  # fmt: skip
    yield Name(base=smol, suffix="channel", dataset=support, licence="apache-2.0", tags=["experiment"],
               recipes=[q(channel, 2.5, gain=0.5), q(channel, 3.0, gain=0.5)], first_day=7)  # fmt: skip
    yield Name(base=gemma, suffix="medical-zh", dataset=medical, licence="gemma", tags=["medical", "chinese"],
               recipes=[q(mix, 3.0, gain=0.6), q(mix, 2.5, gain=0.65), q(mix, 2.5, gain=0.8)],
               aliases=[("prod", 2), ("next", 3)], first_day=21)  # fmt: skip
    yield Name(base=gemma, suffix="support", dataset=support, licence="gemma", tags=["support", "english"],
               recipes=[q(mix, 3.0, gain=0.65), q(mix, 2.25, gain=0.6)], first_day=5)  # fmt: skip
    yield Name(base=gemma, suffix="plain", dataset=medical, licence="gemma", tags=["baseline"],
               recipes=[q(uniform, 4.0, "quantize"), q(uniform, 3.0, "quantize")], first_day=4)  # fmt: skip


CARD = """## What it is for

Answers to customers' questions about **orders, refunds and shipping**, in the tone of our help centre. It was trained
on tickets that people had answered and two others had checked.

- Good at: policy questions, short factual answers, asking for an order number.
- Not for: legal advice, other languages than English, prices of today.

### How it was checked

| check | result |
|---|---|
| answers read by two people | 240 |
| wrong policy named | 3 |

Ask `#support-models` before you move `@prod`; the [runbook](https://example.com/runbook) says how.
"""


def fill(database: Database, store: ObjectStore) -> None:
    """Everything. The database is empty but for its default project."""
    store.ensure_bucket()
    draw = random.Random(SEED)
    with database.transaction() as tx:
        datasets = {name: _file(tx, name, examples) for name, examples in DATASETS.items()}
        for worker, device, gigabytes in WORKERS:
            jobs.workers.report(tx, name=worker, device=device, local_models=[], memory_bytes=gigabytes * 10**9)
    for name in names():
        _publish_all(database, store, name, datasets, draw)
    with database.transaction() as tx:
        tx.execute(text("UPDATE models SET card = :card WHERE name = 'qwen3-8b-support'"), {"card": CARD})
        _unfinished(tx, datasets, draw)


DATASETS = {
    "support-2026-10.jsonl": 18_240,
    "support-validation.jsonl": 960,
    "code-review.jsonl": 9_411,
    "medical-zh.jsonl": 12_077,
}
WORKERS = [("gpu-a100-0", "cuda", 80), ("gpu-4090-1", "cuda", 24), ("desk-cpu", "cpu", 32)]


def _file(tx: Tx, name: str, examples: int) -> FileId:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return files.add(
        tx, project=DEFAULT_PROJECT, filename=name, purpose="fine-tune", size_bytes=examples * 812, sha256=digest,
        examples=examples,
    ).id  # fmt: skip


def _publish_all(
    database: Database, store: ObjectStore, name: Name, datasets: dict[str, FileId], draw: random.Random
) -> None:
    full_name = f"{name.base.slug}-{name.suffix}"
    step = name.first_day / len(name.recipes)
    for number, recipe in enumerate(name.recipes):
        manifest, contents = bundle(name.base, recipe, seed=draw.randrange(2**31))
        for content in contents.values():
            key = blobs.object_key(hashlib.sha256(content).hexdigest())
            store.put_stream(key, io.BytesIO(content), size_bytes=len(content))
        age = DAY * (name.first_day - step * number) - MINUTE * draw.randrange(600)
        with database.transaction() as tx:
            blobs.hold(tx, manifest.files)
            job_id = _run(tx, name, recipe, manifest, datasets, draw)
            _make_older(tx, job_id, age)
    with database.transaction() as tx:
        about = {"name": full_name, "licence": name.licence, "tags": json.dumps(list(name.tags))}
        tx.execute(text("UPDATE models SET licence = :licence, tags = cast(:tags AS jsonb) WHERE name = :name"), about)
        for alias, number in name.aliases:
            _point(tx, full_name, alias, number)


def _run(
    tx: Tx, name: Name, recipe: Recipe, manifest: Manifest, datasets: dict[str, FileId], draw: random.Random
) -> JobId:
    """A job from its submission to its publication, as its worker would tell it."""
    job = jobs.submit(tx, _spec(name, recipe, datasets), project=DEFAULT_PROJECT)
    worker = draw.choice(WORKERS)[0]
    lease = _claimed(tx, job.id, worker)
    steps = manifest.training.steps if manifest.training else 0
    curve = _curve(steps, recipe, draw)
    if recipe.resumed:
        _train(tx, lease, curve, range(1, steps // 2))
        lost = Failed(failure=FailureClass.INFRA, code="worker_lost", message="The worker stopped answering.")
        jobs.fail(tx, lease, lost)
        lease = _claimed(tx, job.id, WORKERS[0][0])
        _train(tx, lease, curve, range(steps * 2 // 5, steps + 1))
    elif steps:
        for stage in manifest.stages[:2]:
            jobs.record(tx, lease, StageStarted(stage=Stage(stage.stage)))
            done = StageFinished(
                stage=Stage(stage.stage), wall_s=stage.wall_s, peak_memory_bytes=stage.peak_memory_bytes
            )
            jobs.record(tx, lease, done)
        _train(tx, lease, curve, range(1, steps + 1))
    full_name = f"{name.base.slug}-{name.suffix}"
    version = registry.publish(tx, project=DEFAULT_PROJECT, name=full_name, job_id=job.id, manifest=manifest)
    jobs.finish(tx, lease, result=f"{full_name}@{version.number}")
    return job.id


def _spec(name: Name, recipe: Recipe, datasets: dict[str, FileId]) -> JobSpec:
    quantization = {} if recipe.scheme is None else {"quantization": recipe.quantization}
    return JobSpec.model_validate(
        {
            "model": name.base.reference,
            "training_file": datasets[name.dataset],
            "suffix": name.suffix,
            "method": {"type": recipe.method, recipe.method: quantization},
            "metadata": {"team": "blue" if "support" in name.suffix else "green"},
        }
    )


def _claimed(tx: Tx, job_id: JobId, worker: str) -> jobs.Lease:
    tx.execute(text("UPDATE jobs SET not_before = now() WHERE id = :id"), {"id": job_id})
    lease = jobs.claim(tx, job_id, worker=worker, ttl=MINUTE)
    assert lease is not None
    return lease


def _curve(steps: int, recipe: Recipe, draw: random.Random) -> dict[str, list[float]]:
    """What training measured, by step; position 0 is before the first."""
    columns: dict[str, list[float]] = {name: [0.0] for name in ("loss", "flips", "flip_rate", "lr", "tokens_per_s")}
    flips = 0.0
    for step in range(1, steps + 1):
        done = step / steps
        columns["loss"].append(0.92 + 1.1 * (1 - recipe.gain * (1 - 2.718 ** (-4 * done))) + draw.gauss(0, 0.05))
        flips += max(0.0, draw.gauss(9000, 2500)) * (1 - done) ** 1.5
        columns["flips"].append(round(flips))
        columns["flip_rate"].append(flips / 6.9e8)
        columns["lr"].append(min(1.0, step / 20) * (1 - 0.9 * done))
        columns["tokens_per_s"].append(2100 + draw.gauss(0, 60))
    return columns


def _train(tx: Tx, lease: jobs.Lease, curve: dict[str, list[float]], steps: range) -> None:
    jobs.record(tx, lease, StageStarted(stage=Stage.TRAINING))
    taken = list(steps)
    for at in range(0, len(taken), 50):
        chunk = taken[at : at + 50]
        columns: dict[str, list[float | None]] = {
            name: [values[step] for step in chunk] for name, values in curve.items()
        }
        jobs.record(tx, lease, Metrics(stage=Stage.TRAINING, steps=chunk, columns=columns))
    last = {name: values[taken[-1]] for name, values in curve.items()}
    total = len(curve["loss"]) - 1
    jobs.record(tx, lease, Progress(stage=Stage.TRAINING, done=taken[-1], total=total, eta_s=0.0, metrics=last))


def _make_older(tx: Tx, job_id: JobId, age: timedelta) -> None:
    """Everything about the job happened so long ago."""
    given = {"id": job_id, "age": age}
    for table, columns in {
        "jobs": ("created_at", "started_at", "finished_at"), "attempts": ("started_at", "ended_at"),
        "job_events": ("created_at",), "evals": ("created_at",), "versions": ("created_at",),
    }.items():  # fmt: skip
        key = "id" if table == "jobs" else "job_id"
        changes = ", ".join(f"{column} = {column} - cast(:age AS interval)" for column in columns)
        tx.execute(text(f"UPDATE {table} SET {changes} WHERE {key} = :id"), given)
    tx.execute(
        text(
            "UPDATE models SET created_at = least(models.created_at, versions.created_at) FROM versions"
            " WHERE versions.model_id = models.id AND versions.job_id = :id"
        ),
        given,
    )


def _point(tx: Tx, name: str, alias: str, number: int) -> None:
    """An alias that came to its version by one step at a time."""
    given = {"name": name, "alias": alias, "number": number}
    tx.execute(
        text(
            "INSERT INTO aliases (model_id, name, number, updated_by)"
            " SELECT id, :alias, :number, 'bootstrap' FROM models WHERE name = :name"
        ),
        given,
    )
    for to in range(1, number + 1):
        reason = "first version" if to == 1 else f"better on the support suite than @{to - 1}"
        tx.execute(
            text(
                "INSERT INTO alias_moves (model_id, alias, from_number, to_number, actor, reason, created_at)"
                " SELECT id, :alias, cast(:before AS int), cast(:to AS int), 'bootstrap', :reason,"
                " now() - interval '1 day' * cast(:days AS int) FROM models WHERE name = :name"
            ),
            {**given, "before": to - 1 or None, "to": to, "reason": reason, "days": 4 * (number - to) + 1},
        )


def _unfinished(tx: Tx, datasets: dict[str, FileId], draw: random.Random) -> None:
    """Jobs that run, wait, stand still or came to nothing."""
    qwen, llama = BASES[0], BASES[1]
    blank = {"dataset": "support-2026-10.jsonl", "recipes": (), "licence": "", "tags": ()}
    recipe = Recipe("layer-mix", 2.5, gain=0.8)

    def submit(base: Base, suffix: str) -> JobId:
        spec = _spec(Name(base=base, suffix=suffix, **blank), recipe, datasets)  # type: ignore[arg-type]
        return jobs.submit(tx, spec, project=DEFAULT_PROJECT).id

    running = submit(qwen, "support-v5")
    lease = _claimed(tx, running, WORKERS[0][0])
    tx.execute(text("UPDATE jobs SET lease_expires_at = now() + interval '1 day' WHERE id = :id"), {"id": running})
    _train(tx, lease, _curve(400, recipe, draw), range(1, 171))
    jobs.record(tx, lease, Note(level="warn", message="3 of 18240 examples are longer than 1024 tokens and were cut."))
    failed = submit(qwen, "support-72b")
    problem = Failed(
        failure=FailureClass.CONFIG, code="out_of_memory", message="Calibrating needs 92.1 GB; the device has 80.0 GB."
    )
    jobs.fail(tx, _claimed(tx, failed, WORKERS[0][0]), problem)
    jobs.cancel(tx, submit(llama, "typo"))
    jobs.pause(tx, submit(llama, "support-paused"))
    for at in range(3):
        submit(llama, f"sweep-{at}")


def evals_of(contents: dict[str, bytes]) -> Evals:
    """The items of a bundle that `showcase_bundle.bundle` made."""
    return Evals.model_validate_json(contents["evals.json"])


if __name__ == "__main__":
    from bitsmith_core.settings import DatabaseSettings, StorageSettings
    from bitsmith_core.storage import S3Store

    _database = Database(DatabaseSettings())  # type: ignore[call-arg]  # from the environment
    fill(_database, S3Store(StorageSettings()))  # type: ignore[call-arg]
    _database.close()
