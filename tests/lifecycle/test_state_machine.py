"""Whatever people, schedulers and workers do, in any order, and wherever they die or meet: jobs keep their promises.

Hypothesis draws the deeds. A process may die before any statement of its transaction, or after the commit, before it
has heard of it; before any statement another process's whole transaction may happen. After each step the tables are
read and judged by `history`; in the end everybody behaves, and every job must come to its end.
"""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from bitsmith_core import delivery
from bitsmith_core.db import Database
from bitsmith_core.errors import Conflict, DatabaseUnavailable, LeaseLost
from bitsmith_core.ids import DEFAULT_PROJECT
from bitsmith_core.settings import DatabaseSettings
from bitsmith_core.spec import JobSpec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from sqlalchemy import event, text

from tests.conftest import add_file
from tests.lifecycle import history
from tests.lifecycle.deeds import DEEDS, ENDS_AN_ATTEMPT, WORKERS, Deed, World

MEETING_LOCK_TIMEOUT = "20ms"  # for whom one waits that meets us in the middle of our transaction
CALM_ROUNDS = 40


class Died(Exception):
    """The process is gone in the middle of its transaction."""


class Cut:
    """Makes something happen before the n-th statement of a transaction."""

    def __init__(self, database: Database) -> None:
        self._left = 0
        self._happens: Callable[[], None]
        event.listen(database.engine, "before_cursor_execute", self._before)

    @contextlib.contextmanager
    def at(self, statement: int, happens: Callable[[], None]) -> Iterator[None]:
        self._left, self._happens = statement, happens
        try:
            yield
        finally:
            self._left = 0

    def _before(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            self._happens()


class Processes:
    """Two of them with connections of their own, and somebody who only looks."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.ours, self.theirs, self.onlooker = (Database(settings) for _ in range(3))
        self.cut = Cut(self.ours)

    def close(self) -> None:
        for database in (self.ours, self.theirs, self.onlooker):
            database.close()


@pytest.fixture
def processes(database: Database, database_settings: DatabaseSettings) -> Iterator[Processes]:
    processes = Processes(database_settings)
    yield processes
    processes.close()


# A message, then what its worker says: without these little happens.
OFTEN = ["deliver"] * 8 + ["record"] * 4 + ["fail"] * 6 + ["finish", "checkpoint", "submit", "beat"] * 2
A_DEED = st.builds(Deed, name=st.sampled_from(sorted(DEEDS) + OFTEN), a=st.integers(0, 5), b=st.integers(0, 11))
STATEMENT = st.integers(1, 10)
TARGET = st.integers(0, 5)
WISH = st.sampled_from(["cancel", "pause", "resume", "resume", "prefer"])
DONE = st.sampled_from(["deliver", "deliver", "finish", "fail", "stop", "reap"])
END = st.sampled_from(["fail", "fail", "finish", "stop", "beat", "beat", "beat"])


class Lifecycle(RuleBasedStateMachine):
    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.ours, self.theirs, self.onlooker = processes.ours, processes.theirs, processes.onlooker
        self.cut = processes.cut

    @initialize()
    def begin(self) -> None:
        with self.ours.transaction() as tx:
            for table in ("webhooks", "eval_results", "evals", "version_files", "versions", "models", "job_events",
                          "attempts", "checkpoints", "metric_chunks", "log_chunks", "outbox", "jobs", "files",
                          "workers"):  # fmt: skip
                tx.execute(text(f"DELETE FROM {table}"))
            tx.execute(text("UPDATE projects SET charge = 0"))
            delivery.webhooks.create(tx, project=DEFAULT_PROJECT, url="https://example.org/hook")
            spec = JobSpec(model="hf:org/tiny", training_file=add_file(tx), validation_file=add_file(tx))
        self.world = World(spec)
        self.before = history.look(self.onlooker)
        for worker in range(2):
            self.do(Deed("report", worker))
        for priority in range(3):
            self.do(Deed("submit", b=priority))

    @rule(deed=A_DEED)
    def do(self, deed: Deed) -> None:
        lease, before = deed.lease(self.world), self.before
        is_stale = lease is not None and before[lease.job_id].job["lease_token"] != str(lease.token)
        refusal = self._transact(self.ours, deed)
        self._judge(deed)
        assert isinstance(refusal, LeaseLost) == is_stale, "a stale lease writes nothing, and a live one writes"
        assert refusal is None or self.before == before
        assert not isinstance(refusal, DatabaseUnavailable)

    @rule(deed=A_DEED, statement=STATEMENT)
    def die_in(self, deed: Deed, statement: int) -> None:
        def die() -> None:
            raise Died

        before = self.before
        with self.cut.at(statement, die):
            try:
                self._transact(self.ours, deed, hears=False)
            except Died:
                assert history.look(self.onlooker) == before
        self._judge(deed)

    @rule(deed=A_DEED, other=A_DEED, statement=STATEMENT)
    def meet(self, deed: Deed, other: Deed, statement: int) -> None:
        def happens() -> None:
            self._transact(self.theirs, other, lock_timeout=MEETING_LOCK_TIMEOUT)

        with self.cut.at(statement, happens):
            refusal = self._transact(self.ours, deed)
        assert not isinstance(refusal, DatabaseUnavailable), "nobody waits for one who has committed"
        self._judge(deed, other)

    @rule(
        wish=WISH,
        done=DONE,
        job=TARGET,
        how=st.integers(0, 11),
        statement=st.integers(1, 5),
        wish_is_first=st.booleans(),
    )
    def meet_over_one_job(self, wish: str, done: str, job: int, how: int, statement: int, wish_is_first: bool) -> None:
        """Somebody wants something of the very job that a worker says something of."""
        newest_first = [lease.job_id for lease in reversed(self.world.leases)]
        job_id = self.world.job(job)
        if done == "deliver" or job_id not in newest_first:
            theirs = Deed("deliver", job, 1)
        else:
            theirs = Deed(done, newest_first.index(job_id), how)
        pair = (Deed(wish, job, how), theirs)
        first, second = pair if wish_is_first else pair[::-1]
        self.meet(first, second, statement)

    @rule(seconds=st.sampled_from([-60, 3, 3, 16, 16, 100, 700]))
    def move_clock(self, seconds: int) -> None:
        """For everybody who asks Postgres, it is so much later."""
        past = f"- interval '{seconds} s'"
        with self.ours.transaction() as tx:
            tx.execute(
                text(
                    f"UPDATE jobs SET lease_expires_at = lease_expires_at {past}, not_before = not_before {past}, "
                    f"offered_at = offered_at {past} WHERE finished_at IS NULL"
                )
            )
            tx.execute(text(f"UPDATE workers SET seen_at = seen_at {past}"))
        self.before = history.look(self.onlooker)

    @rule(
        job=TARGET,
        worker=st.sampled_from([1, 3, 5]),
        lines=st.lists(st.integers(0, 11), max_size=3),
        end=END,
        how=st.integers(0, 11),
    )
    def attempt(self, job: int, worker: int, lines: list[int], end: str, how: int) -> None:
        known = len(self.world.leases)
        self.move_clock(16)  # the back-off of the last one is over, and a live lease is not
        self.do(Deed("deliver", job, worker))
        if len(self.world.leases) > known:
            for line in lines:
                self.do(Deed("record", 0, line))
                self.do(Deed("checkpoint", 0, line))
            self.do(Deed(end, 0, how))

    @rule(job=TARGET, lines=st.lists(st.integers(0, 11), max_size=6))
    def let_an_attempt_run(self, job: int, lines: list[int]) -> None:
        self.do(Deed("resume", job))
        self.attempt(job, 1, lines, "beat", 0)

    @rule()
    def let_everybody_act(self) -> None:
        for worker in range(2):
            self.do(Deed("report", worker))
        for deed in ("reap", "meter", "offer", "relay"):
            self.do(Deed(deed))

    @rule()
    def offer_to_all_who_are_free(self) -> None:
        """Nobody who could work is left without a message while a job waits."""
        with self.onlooker.transaction() as tx:
            free, waiting = tx.execute(text(FREE_AND_WAITING)).one()
        sent_before = self._unsent()
        self.do(Deed("offer"))
        assert self._unsent() - sent_before == max(0, min(free, waiting))

    def teardown(self) -> None:
        if hasattr(self, "before"):  # otherwise it did not even begin
            self._calm_down()

    def _calm_down(self) -> None:
        for round_ in range(CALM_ROUNDS):
            if all(story.status in history.OVER for story in self.before.values()):
                return
            self.move_clock(700)
            for worker in range(1 + round_ % len(WORKERS)):
                self.do(Deed("restart_worker", worker))
            for number in range(len(self.world.submitted)):
                self.do(Deed("resume", number))
            self.do(Deed("reap"))
            for _ in range(2):  # the second time it knows whose messages travel
                self.offer_to_all_who_are_free()
            self.do(Deed("relay"))
            for number in range(len(self.world.messages)):
                known = len(self.world.leases)
                self.do(Deed("deliver", 0, 2 * (number + round_)))
                if len(self.world.leases) > known:
                    self.do(Deed("finish", 0))
        raise AssertionError(f"after {CALM_ROUNDS} rounds there are {[s.status for s in self.before.values()]}")

    def _transact(
        self, database: Database, deed: Deed, *, lock_timeout: str | None = None, hears: bool = True
    ) -> Exception | None:
        """One transaction; answers why it was refused. hears: whether its process lives on to know what it did."""
        try:
            with database.transaction() as tx:
                if lock_timeout is not None:
                    tx.execute(text(f"SET LOCAL lock_timeout = '{lock_timeout}'"))
                remember = deed.do(self.world, tx)
        except (Conflict, LeaseLost, DatabaseUnavailable) as refusal:
            return refusal
        if hears or deed.name in {"submit", "relay"}:  # a client asks again; what is at the broker is there
            remember()
        return None

    def _judge(self, *done: Deed) -> None:
        after = history.look(self.onlooker)
        keeps_leases = all(deed.name not in ENDS_AN_ATTEMPT for deed in done)
        for job_id, story in after.items():
            history.check(story)
            if job_id in self.before:
                before = self.before[job_id]
                history.check_step(before, story, transactions=len(done), keeps_leases=keeps_leases)
        assert set(self.before) <= set(after), "no job is lost"
        self.before = after

    def _unsent(self) -> int:
        with self.onlooker.transaction() as tx:
            return int(tx.scalar(text("SELECT count(*) FROM outbox WHERE sent_at IS NULL")) or 0)


FREE_AND_WAITING = """
    SELECT (SELECT count(*) FROM workers
            WHERE seen_at > now() - interval '20 s' AND NOT is_draining
              AND name NOT IN (SELECT lease_worker FROM jobs WHERE lease_expires_at > now()))
         - (SELECT count(*) FROM jobs WHERE status = 'queued' AND offered_at >= now() - interval '15 s'),
           (SELECT count(*) FROM jobs WHERE status = 'queued' AND not_before <= now()
              AND (offered_at IS NULL OR offered_at < now() - interval '15 s'))
"""


def run(processes: Processes, *, examples: int, steps: int, is_random: bool) -> None:
    class Here(Lifecycle):
        def __init__(self) -> None:
            super().__init__(processes)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=not is_random,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # to shrink takes minutes; the steps and what they broke are shown anyhow
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_jobs_keep_their_promises_whatever_happens_in_any_order(processes: Processes) -> None:
    run(processes, examples=20, steps=40, is_random=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_jobs_keep_them_in_orders_that_nobody_has_seen(processes: Processes) -> None:
    run(processes, examples=400, steps=60, is_random=True)
