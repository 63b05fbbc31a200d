"""What may be done to jobs: each deed one transaction of one process, as the API, a scheduler or a worker does it.

A deed names its targets by numbers and takes whatever is there under them, so that it can be tried at any moment.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from bitsmith_core import jobs, registry
from bitsmith_core.db import Tx
from bitsmith_core.ids import DEFAULT_PROJECT, JobId
from bitsmith_core.jobs import Lease
from bitsmith_core.spec import JobSpec
from bitsmith_core.wire import Failed, FailureClass, Line, Metrics, Note, Progress, Stage, StageFinished, StageStarted

from tests.core.test_registry import manifest

LEASE = timedelta(seconds=90)
WORKERS = ("w0", "w1", "w2")
MOST_JOBS = 5

FAILURES = [
    *(Failed(failure=kind, code=f"test_{kind}", message="It broke.") for kind in FailureClass if kind != "yield"),
    Failed(failure=FailureClass.RESOURCE, code="disk_full", message="It is full."),
]
LINES: list[Line] = [
    StageStarted(stage=Stage.MEASURING),
    StageFinished(stage=Stage.MEASURING, wall_s=1, peak_memory_bytes=10),
    StageStarted(stage=Stage.TRAINING),
    Note(level="warn", message="Something to know."),
    *(Progress(stage=Stage.TRAINING, done=done, total=40) for done in (1, 2, 20, 40)),
    *(Metrics(stage=Stage.TRAINING, steps=[step, step + 1], columns={"loss": [1.0, None]}) for step in (1, 3)),
]


@dataclass
class World:
    """What processes remember; everything else is in Postgres."""

    spec: JobSpec
    submitted: list[JobId] = field(default_factory=list)
    messages: list[JobId] = field(default_factory=list)  # at the broker
    leases: list[Lease] = field(default_factory=list)  # ever given out; most of them stale

    def job(self, number: int) -> JobId | None:
        return self.submitted[number % len(self.submitted)] if self.submitted else None

    def lease(self, number: int) -> Lease | None:
        """Counted from the newest: 0 is most often the live one."""
        return self.leases[-1 - number % len(self.leases)] if self.leases else None


Outcome = Callable[[], None]  # what its process remembers if the transaction commits


def forget() -> None:
    pass


def submit(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if len(world.submitted) >= MOST_JOBS:
        return forget
    job = jobs.submit(tx, world.spec, project=DEFAULT_PROJECT, priority=b % 3 - 1)
    return lambda: world.submitted.append(job.id)


def offer(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.offer(tx)
    return forget


def relay(world: World, tx: Tx, a: int, b: int) -> Outcome:
    sent = []
    for row in jobs.outbox.unsent(tx, limit=100):
        sent.append(JobId(row.payload["job_id"]))
        jobs.outbox.mark_sent(tx, row.id)
    return lambda: world.messages.extend(sent)


def deliver(world: World, tx: Tx, a: int, b: int) -> Outcome:
    """A message reaches a worker; with b odd it is one that the broker delivers late, again or out of nothing."""
    is_stray = b % 2 == 1
    choice = world.submitted if is_stray else world.messages
    if not choice:
        return forget
    message = choice[a % len(choice)]
    lease = jobs.claim(tx, message, worker=WORKERS[b // 2 % len(WORKERS)], ttl=LEASE)

    def remember() -> None:
        if not is_stray:
            world.messages.remove(message)
        if lease is not None:
            world.leases.append(lease)

    return remember


def flush_broker(world: World, tx: Tx, a: int, b: int) -> Outcome:
    return world.messages.clear


def beat(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        jobs.extend(tx, lease, ttl=LEASE)
    return forget


def record(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        jobs.record(tx, lease, LINES[b % len(LINES)])
    return forget


def checkpoint(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        stage, step = (Stage.MEASURING, 0) if b % 4 == 0 else (Stage.TRAINING, 10 * (b % 4))
        prefix = f"{lease.prefix}/{stage}-{step}"
        jobs.keep_checkpoint(tx, lease, stage=stage, step=step, prefix=prefix, files=["state.bin"])
    return forget


def log(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        jobs.keep_log(tx, lease, number=b % 3, object_key=f"{lease.prefix}/logs/{b % 3}", size_bytes=1, lines=1)
    return forget


def finish(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        publish_and_finish(tx, lease)
    return forget


def fail(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        jobs.fail(tx, lease, FAILURES[b % len(FAILURES)])
    return forget


def stop(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (lease := world.lease(a)) is not None:
        jobs.stopped(tx, lease)
    return forget


def cancel(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (job_id := asked_for(world, tx, a)) is not None:
        jobs.cancel(tx, job_id)
    return forget


def pause(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (job_id := asked_for(world, tx, a)) is not None:
        jobs.pause(tx, job_id)
    return forget


def resume(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (job_id := asked_for(world, tx, a)) is not None:
        jobs.resume(tx, job_id)
    return forget


def prefer(world: World, tx: Tx, a: int, b: int) -> Outcome:
    if (job_id := asked_for(world, tx, a)) is not None:
        jobs.change(tx, job_id, version=None, priority=b % 5, labels=None)
    return forget


def report(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.workers.report(tx, name=WORKERS[a % len(WORKERS)], device="cpu", local_models=[])
    return forget


def restart_worker(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.workers.arrive(tx, WORKERS[a % len(WORKERS)])
    jobs.workers.report(tx, name=WORKERS[a % len(WORKERS)], device="cpu", local_models=[])
    return forget


def drain(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.workers.drain(tx, WORKERS[a % len(WORKERS)], wanted=bool(b % 2))
    return forget


def reap(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.reap(tx)
    return forget


def meter(world: World, tx: Tx, a: int, b: int) -> Outcome:
    jobs.sample_usage(tx)
    return forget


Do = Callable[[World, Tx, int, int], Outcome]

OF_AN_ATTEMPT: dict[str, Do] = {deed.__name__: deed for deed in (beat, record, checkpoint, log, finish, fail, stop)}
ENDS_AN_ATTEMPT = {"finish", "fail", "stop"}
DEEDS: dict[str, Do] = OF_AN_ATTEMPT | {
    deed.__name__: deed
    for deed in (
        submit, offer, relay, deliver, flush_broker, cancel, pause, resume, prefer, report, restart_worker, drain,
        reap, meter,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Deed:
    """Its name and the numbers of its targets."""

    name: str
    a: int = 0
    b: int = 0

    def do(self, world: World, tx: Tx) -> Outcome:
        return DEEDS[self.name](world, tx, self.a, self.b)

    def lease(self, world: World) -> Lease | None:
        """Which lease it speaks for."""
        return world.lease(self.a) if self.name in OF_AN_ATTEMPT else None


def publish_and_finish(tx: Tx, lease: Lease) -> None:
    registry.blobs.hold(tx, manifest().files)
    version = registry.publish(tx, project=lease.project, name="tiny", job_id=lease.job_id, manifest=manifest())
    jobs.finish(tx, lease, result=f"tiny@{version.number}")


def asked_for(world: World, tx: Tx, number: int) -> JobId | None:
    """The job as a request names it: the API looks in the same transaction whether it is there."""
    job_id = world.job(number)
    assert job_id is None or jobs.belongs_to(tx, job_id, DEFAULT_PROJECT)
    return job_id
