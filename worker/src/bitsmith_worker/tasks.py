"""One message, one attempt: claim, fetch, run the engine, upload, and say in one transaction how it ended."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bitsmith_core import jobs, registry, telemetry
from bitsmith_core.bundle import Manifest
from bitsmith_core.db import Database, Tx
from bitsmith_core.errors import DatabaseUnavailable, FilesGone, LeaseLost, NotFound
from bitsmith_core.ids import JobId
from bitsmith_core.jobs import DesiredState, EngineEnd, Lease
from bitsmith_core.log import bind_job, get_logger
from bitsmith_core.registry import evals
from bitsmith_core.spec import JobSpec
from bitsmith_core.storage import ObjectStore
from bitsmith_core.telemetry import SpanKind
from bitsmith_core.wire import Failed, FailureClass, Finished, Line, Stage, StageFinished, StageStarted

from bitsmith_worker import tracing
from bitsmith_worker.engine_log import EngineLog
from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.heartbeat import AttemptOver, Ending, Heartbeat
from bitsmith_worker.journal import Journal
from bitsmith_worker.keeping import Keeper
from bitsmith_worker.machine import Machine
from bitsmith_worker.order import read_order
from bitsmith_worker.ranks import processes_of, share_of
from bitsmith_worker.settings import GangSettings, WorkerSettings
from bitsmith_worker.supervisor import Ended, supervise
from bitsmith_worker.workspace import Workspace

log = get_logger()
T = TypeVar("T")

_LEAVING_PATIENCE_S = 4.0  # for the last word: a leaving worker is killed soon
_FAILED_PATIENCE_S = 60.0  # a failed attempt waits so long for uploads that its successor can use


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What an attempt works with. Made before the pool process is forked, connected only inside it."""

    settings: WorkerSettings
    database: Database
    store: ObjectStore
    machine: Machine
    gang: GangSettings
    is_leaving: Callable[[], bool]
    on_claim: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A bundle that lies complete in the object store."""

    name: str
    manifest: Manifest
    evaluates: str | None = None  # name@version; None: the bundle is a version of its own


def run_job(tools: Tools, job_id: JobId) -> bool:
    """Make one attempt at the job, if it is there to be claimed. Safe to deliver late, twice, or never.

    Returns:
        Whether an attempt was made.
    """
    with bind_job(job_id=job_id), _also_on_sigterm(tools.is_leaving) as is_leaving:
        if is_leaving():
            log.info("message.left", reason="this worker is leaving")
            return False
        claimed_at = time.monotonic()
        lease = _claim(tools, job_id)
        if lease is None:
            return False

        tools.on_claim()
        heartbeat = Heartbeat(tools.settings, tools.database, lease, claimed_at=claimed_at, is_leaving=is_leaving)
        with heartbeat, telemetry.span("job.attempt", job_id=job_id, attempt_number=lease.attempt) as span:
            outcome, end = _attempt(tools, lease, heartbeat)
            tracing.note_outcome(span, outcome)
            _settle(tools, lease, heartbeat, outcome, end)
    return True


def _claim(tools: Tools, job_id: JobId) -> Lease | None:
    try:
        with telemetry.span("job.claim", kind=SpanKind.CONSUMER, job_id=job_id), tools.database.transaction() as tx:
            settings = tools.settings
            lease = jobs.claim(tx, job_id, worker=settings.name, ttl=settings.lease, pool=settings.pool)
    except DatabaseUnavailable as error:
        log.warning("job.not_claimed", reason=str(error))  # it is offered again
        return None
    if lease is None:
        log.info("message.dropped", reason="the job is over, waits, is another pool's, or another worker has it")
        return None
    log.info("job.claimed", worker=lease.worker, attempt=lease.attempt)
    return lease


def _attempt(tools: Tools, lease: Lease, heartbeat: Heartbeat) -> tuple[Result | Failed | Ending, EngineEnd]:
    """Everything between the claim and the last word; whatever goes wrong becomes an outcome."""
    end = EngineEnd()
    try:
        with (
            Workspace(tools.settings, tools.store, lease) as workspace,
            Journal(
                tools.database,
                lease,
                metrics_every_s=tools.settings.metrics_every_s,
                on_lease_lost=heartbeat.lose,
            ) as journal,
            EngineLog(
                tools.settings,
                tools.database,
                tools.store,
                lease,
                workspace.engine_log,
                on_lease_lost=heartbeat.lose,
            ),
            _transfers() as transfers,
        ):
            order = _patiently(tools, heartbeat, partial(read_order, lease=lease))
            with _stage(journal, Stage.FETCHING):
                fetched = heartbeat.wait_for(
                    transfers.submit(
                        workspace.fetch,
                        order.spec,
                        order.training,
                        order.validation,
                        order.packs,
                        order.checkpoints,
                        order.adjustments,
                        order.version,
                    )
                )
                if fetched:
                    log.info("attempt.goes_on", fetched=fetched)

            ended = _run_engine(tools, lease, heartbeat, workspace, journal, transfers, order.spec)
            end = _end_of(ended, workspace)
            if not isinstance(ended.outcome, Finished):
                return ended.outcome, end

            with _stage(journal, Stage.PUBLISHING):
                manifest = heartbeat.wait_for(
                    transfers.submit(workspace.check_artifacts, ended.outcome.manifest_sha256)
                )
                _patiently(tools, heartbeat, partial(registry.blobs.hold, files=manifest.files))
                heartbeat.wait_for(transfers.submit(workspace.upload_artifacts, manifest))
            journal.flush(heartbeat.pause)
            spec = order.spec
            return Result(name=spec.model_name, manifest=manifest, evaluates=spec.evaluates), end
    except AttemptOver as over:
        return over.ending, end
    except AttemptFailed as failed:
        return failed.line, end
    except Exception as error:  # the attempt's outermost edge: the job must hear of it
        log.exception("attempt.broke")
        problem = f"The worker broke: {type(error).__name__}: {error}".replace("\0", "")
        return Failed(failure=FailureClass.UNKNOWN, code="worker_error", message=problem), end


def _run_engine(
    tools: Tools,
    lease: Lease,
    heartbeat: Heartbeat,
    workspace: Workspace,
    journal: Journal,
    transfers: ThreadPoolExecutor,
    spec: JobSpec,
) -> Ended:
    keeper = Keeper(
        workspace, lease, transfers, commit=partial(_patiently, tools, heartbeat), on_lease_lost=heartbeat.lose
    )

    stages = tracing.StageSpans()

    def on_line(line: Line) -> None:
        journal.add(line)
        keeper.hear(line)
        stages.hear(line)

    share = share_of(
        spec, tools.gang, processes=processes_of(spec, asked=tools.settings.processes, found=tools.machine), lease=lease
    )
    ended = supervise(
        [*tools.settings.engine, str(workspace.spec_file), str(workspace.inputs), str(workspace.out)],
        folder=workspace.folder,
        log_file=workspace.engine_log,
        on_line=on_line,
        ending=heartbeat.ending,
        stop_within_s=lambda why: tools.settings.pause_within_s if why.can_wait else tools.settings.engine_stop_s,
        share=share,
    )
    stages.close()
    outcome = ended.outcome
    log.info(
        "engine.ended",
        status=ended.status,
        outcome=outcome if isinstance(outcome, Ending) else outcome.model_dump(mode="json"),
    )
    # Before the artifacts an upload is waited for anyway: they go through the same single thread.
    if isinstance(outcome, Failed):
        heartbeat.wait_all(keeper.uploads, within_s=_FAILED_PATIENCE_S)
    elif isinstance(outcome, Ending) and outcome.can_wait:
        heartbeat.wait_all(keeper.uploads, within_s=tools.settings.pause_within_s)
    elif outcome is Ending.LEAVING:
        heartbeat.wait_all(keeper.uploads, within_s=tools.settings.leave_within_s)
    return ended


def _end_of(ended: Ended, workspace: Workspace) -> EngineEnd:
    """What a person who asks why may want to see."""
    evidence: dict[str, Any] = {"scratch_free_bytes": shutil.disk_usage(workspace.folder).free}
    if ended.status < 0:
        evidence["signal"] = -ended.status
    if not isinstance(ended.outcome, Finished) and ended.log_end:
        evidence["log_end"] = ended.log_end
    return EngineEnd(exit_code=ended.status, evidence=evidence)


def _patiently(tools: Tools, heartbeat: Heartbeat, action: Callable[[Tx], T]) -> T:
    """One transaction, repeated while Postgres does not answer.

    Raises:
        AttemptOver: the lease is gone, or may be soon.
    """
    while True:
        try:
            with tools.database.transaction() as tx:
                return action(tx)
        except DatabaseUnavailable:
            heartbeat.pause(1.0)


def _settle(
    tools: Tools, lease: Lease, heartbeat: Heartbeat, outcome: Result | Failed | Ending, end: EngineEnd
) -> None:
    """Say how the attempt ended, unless it may not speak any more. Repeated until Postgres has heard it."""
    if isinstance(outcome, Ending) and not outcome.may_write:
        log.warning("attempt.fell_silent", reason=outcome)
        return
    give_up_at = time.monotonic() + _LEAVING_PATIENCE_S
    while True:
        try:
            with tools.database.transaction() as tx:
                said = _say(tx, lease, outcome, end)
            log.info("attempt.ended", outcome=said, attempt=lease.attempt)
            return
        except LeaseLost:
            log.warning("attempt.result_dropped", reason="another attempt owns the job, or it is over")
            return
        except DatabaseUnavailable as error:
            log.warning("attempt.unheard", reason=str(error))
        except NotFound as error:
            problem = f"The version was deleted while it was evaluated: {error}."
            outcome = Failed(failure=FailureClass.DATA, code="version_gone", message=problem)
            continue
        except FilesGone as error:  # it was silent for longer than orphans are kept
            problem = f"The result was swept away before it was published: {error}."
            outcome = Failed(failure=FailureClass.INFRA, code="files_gone", message=problem)
            continue
        if heartbeat.ending() is Ending.LEAVING and time.monotonic() > give_up_at:
            log.warning("attempt.fell_silent", reason="this worker is leaving")
            return
        try:
            heartbeat.pause(1.0)
        except AttemptOver as over:
            log.warning("attempt.fell_silent", reason=over.ending)
            return


def _say(tx: Tx, lease: Lease, outcome: Result | Failed | Ending, end: EngineEnd) -> str:
    if isinstance(outcome, Failed):
        return jobs.fail(tx, lease, outcome, end=end)
    if isinstance(outcome, Ending):
        return jobs.stopped(tx, lease, end=end)
    if jobs.wish(tx, lease) is DesiredState.CANCEL:  # it came after the engine had finished, and was answered 200
        return jobs.stopped(tx, lease, end=end)
    # One transaction: the lease fences the publication, so exactly one attempt publishes.
    if outcome.evaluates is not None:
        evaluation = evals.publish(
            tx, project=lease.project, version=outcome.evaluates, job_id=lease.job_id, manifest=outcome.manifest
        )
        jobs.finish(tx, lease, result=evaluation.id, end=end)
        return evaluation.id
    version = registry.publish(
        tx,
        project=lease.project,
        name=outcome.name,
        job_id=lease.job_id,
        manifest=outcome.manifest,
    )
    result = f"{version.model.name}@{version.number}"
    jobs.finish(tx, lease, result=result, end=end)
    return result


@contextmanager
def _stage(journal: Journal, stage: Stage) -> Iterator[None]:
    """A stage that the worker does itself."""
    started = time.monotonic()
    journal.add(StageStarted(stage=stage))
    with telemetry.span(f"stage.{stage}"):
        yield
    journal.add(StageFinished(stage=stage, wall_s=time.monotonic() - started, peak_memory_bytes=0))


@contextmanager
def _transfers() -> Iterator[ThreadPoolExecutor]:
    """One thread for what moves bytes, in order; left to itself when the attempt is over."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="transfers")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _also_on_sigterm(is_leaving: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """SIGTERM may reach this very process (a service manager signals the whole group): it means the same."""
    told = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield lambda: told.is_set() or is_leaving()
    finally:
        signal.signal(signal.SIGTERM, previous)
