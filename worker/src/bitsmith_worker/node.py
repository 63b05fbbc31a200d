"""A node that helps a worker: it runs its share of the processes of whatever the worker is at.

What there is to do is read again and again from the database: the attempt of the worker called as this node is, while
its lease lives. A node takes no messages, is no worker to anybody, and writes one thing only: that its share failed.
"""

import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from bitsmith_core import jobs
from bitsmith_core.db import Database
from bitsmith_core.errors import DatabaseUnavailable, LeaseLost
from bitsmith_core.jobs import EngineEnd, Lease
from bitsmith_core.log import bind_job, get_logger
from bitsmith_core.storage import ObjectStore
from bitsmith_core.wire import Failed, FailureClass

from bitsmith_worker.failure import AttemptFailed
from bitsmith_worker.machine import Machine, oom_kills
from bitsmith_worker.order import read_order
from bitsmith_worker.ranks import Death, Ranks, first_cause, processes_of, share_of
from bitsmith_worker.settings import GangSettings, WorkerSettings
from bitsmith_worker.supervisor import judge, log_tail
from bitsmith_worker.workspace import Workspace

log = get_logger()

_POLL_S = 0.2
_LOOK_EVERY_S = 1.0
_AFTERMATH_S = 30.0  # for the worker to say why it failed, before its node says that a process of its own ended
_LEADER_WITHIN_S = 1800.0  # the same that processes wait for each other


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTools:
    settings: WorkerSettings
    gang: GangSettings
    database: Database
    store: ObjectStore
    machine: Machine


def follow(tools: NodeTools) -> None:
    """Help at one attempt after the other until SIGTERM; at one, if the settings say once."""
    leaving = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: leaving.set())
    leader = _Leader(tools)
    done: UUID | None = None
    log.info("node.started", leader=tools.settings.name, node_rank=tools.gang.node_rank)
    while not leaving.wait(_LOOK_EVERY_S):
        lease = leader.look()
        if lease is not None and lease.token != done:
            with bind_job(job_id=lease.job_id):
                _Help(tools, leader, lease, leaving).run()
            done = lease.token
            if tools.settings.once:
                break
        elif tools.settings.once and leader.will_not_come():
            log.info("node.idle", leader=tools.settings.name)
            break
    log.info("node.left", leader=tools.settings.name)


class _Leader:
    """What the database knows of the worker; the newest answer, while it gives none."""

    def __init__(self, tools: NodeTools) -> None:
        self._name, self._database = tools.settings.name, tools.database
        self._lease: Lease | None = None
        self._is_there = self._was_there = False
        self._give_up_at = time.monotonic() + tools.settings.idle_within_s + _LEADER_WITHIN_S

    def look(self) -> Lease | None:
        try:
            with self._database.transaction() as tx:
                self._lease = jobs.lease_of(tx, self._name)
                self._is_there = bool(jobs.workers.those(tx, [self._name]))
                self._was_there |= self._is_there
        except DatabaseUnavailable as error:
            log.warning("leader.unknown", reason=str(error))
        return self._lease

    def will_not_come(self) -> bool:
        """It left, or never came at all."""
        return (self._was_there and not self._is_there) or time.monotonic() > self._give_up_at


class _Help:
    """One attempt."""

    def __init__(self, tools: NodeTools, leader: _Leader, lease: Lease, leaving: threading.Event) -> None:
        self._tools, self._leader, self._lease, self._leaving = tools, leader, lease, leaving
        self._looked_at = time.monotonic()
        self._is_over = False
        self._leave_at = float("inf")

    def run(self) -> None:
        log.info("attempt.helped", attempt=self._lease.attempt, leader=self._lease.worker)
        try:
            with Workspace(self._tools.settings, self._tools.store, self._lease) as workspace:
                self._work(workspace)
        except AttemptFailed as failed:
            self._tell(failed.line)
        except DatabaseUnavailable as error:
            self._tell(_lost(f"The database did not say what to do: {error}."))
        except Exception as error:  # the outermost edge of an attempt
            log.exception("node.broke")
            self._tell(_lost(f"It broke: {type(error).__name__}: {error}".replace("\0", "")))
        while self._goes_on():  # nothing more to do here
            time.sleep(_POLL_S)
        log.info("attempt.left", attempt=self._lease.attempt)

    def _work(self, workspace: Workspace) -> None:
        tools = self._tools
        with tools.database.transaction() as tx:
            order = read_order(tx, self._lease)
        processes = processes_of(order.spec, asked=tools.settings.processes, found=tools.machine)
        share = share_of(order.spec, tools.gang, processes=processes, lease=self._lease)
        if share.total == 1:
            return  # the worker does it alone

        fetch = partial(
            workspace.fetch, order.spec, order.training, order.validation, order.packs, [], order.adjustments
        )
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch")
        try:
            if not self._wait_for(pool.submit(fetch)):
                return
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        command = [*tools.settings.engine, str(workspace.spec_file), str(workspace.inputs), str(workspace.out)]
        kills_before = oom_kills()
        ranks = Ranks(command, share, folder=workspace.folder, log_file=workspace.engine_log)
        try:
            deaths = self._watch(ranks)
        finally:
            ranks.kill()
            ranks.close()
        if deaths:
            evidence = log_tail(workspace.engine_log)
            log.warning("rank.died", deaths=[tuple(death) for death in deaths], log_end=evidence)
            memory_ran_out = kills_before is None or oom_kills() != kills_before
            self._tell_death(deaths, evidence, memory_ran_out=memory_ran_out)

    def _wait_for(self, work: Future[dict[str, int]]) -> bool:
        while not work.done():
            if not self._goes_on():
                return False
            time.sleep(_POLL_S)
        work.result()
        return True

    def _watch(self, ranks: Ranks) -> list[Death]:
        """Until all ranks of this node ended well, one ended badly, or the attempt is over."""
        while ranks.are_running() and self._goes_on():
            if deaths := ranks.deaths():
                return deaths
            time.sleep(_POLL_S)
        return ranks.deaths() if self._goes_on() else []

    def _goes_on(self) -> bool:
        """Whether the attempt does. A node that is to leave gives the worker the time to leave in good order."""
        if self._leaving.is_set():
            self._leave_at = min(self._leave_at, time.monotonic() + self._tools.settings.engine_stop_s)
        if time.monotonic() > self._leave_at and not self._is_over:
            self._tell(Failed(failure=FailureClass.YIELD, code="node_left", message="It was told to leave."))
        if not self._is_over and time.monotonic() - self._looked_at > _LOOK_EVERY_S:
            lease = self._leader.look()
            self._looked_at = time.monotonic()
            self._is_over = lease is None or lease.token != self._lease.token
        return not self._is_over

    def _tell_death(self, deaths: list[Death], evidence: str, *, memory_ran_out: bool) -> None:
        first = first_cause(deaths)
        if first.status >= 0:  # it may have failed because others did, and the worker knows why
            deadline = time.monotonic() + _AFTERMATH_S
            while self._goes_on() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        failed = judge(first.status, None, asked=None, evidence=evidence, memory_ran_out=memory_ran_out)
        assert isinstance(failed, Failed)
        self._tell(failed)

    def _tell(self, failed: Failed) -> None:
        """End the attempt, unless it is over: the worker finds its lease gone and stops."""
        if self._is_over:
            return
        node = self._tools.gang.node_rank
        failed = failed.model_copy(update={"message": f"On node {node}: {failed.message}"})
        try:
            with self._tools.database.transaction() as tx:
                jobs.fail(tx, self._lease, failed, end=EngineEnd(evidence={"node_rank": node}))
            log.warning("attempt.failed_here", code=failed.code, reason=failed.message)
        except LeaseLost:
            pass
        except DatabaseUnavailable as error:
            log.warning("attempt.unheard", reason=str(error))
            return
        self._is_over = True


def _lost(message: str) -> Failed:
    return Failed(failure=FailureClass.INFRA, code="node_lost", message=message)
