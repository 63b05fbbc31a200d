"""No plan takes a worker that holds a job, whatever the pool looks like; every pool ends with what was wanted."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bitsmith_operator.fleet import SILENT_FOR, Plan, Pod, Size, Worker, plan, share
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def pod(name: str = "a", *, worker: Worker = Worker.ALIVE, is_busy: bool = False, is_draining: bool = False,
        template: str = "t", is_dead: bool = False, is_leaving: bool = False, age: timedelta = MINUTE,
        silent_since: datetime | None = None) -> Pod:  # fmt: skip
    return Pod(
        name=name, template=template, created_at=NOW - age, is_dead=is_dead, is_leaving=is_leaving, worker=worker,
        silent_since=silent_since, is_busy=is_busy, is_draining=is_draining,
    )  # fmt: skip


def planned(*pods: Pod, wanted: int, idle_for: timedelta = timedelta(0), surplus_since: datetime | None = None,
            drained: tuple[str, ...] = (), now: datetime = NOW) -> Plan:  # fmt: skip
    return plan(
        pods, wanted=wanted, idle_for=idle_for, template="t", surplus_since=surplus_since, drained=drained, now=now
    )


@st.composite
def a_pod(draw: st.DrawFn, name: str) -> Pod:
    worker = draw(st.sampled_from(Worker))
    ago = timedelta(minutes=draw(st.integers(0, 30)))
    return pod(
        name,
        worker=worker,
        silent_since=None if worker is Worker.ALIVE else NOW - ago,
        is_busy=worker is not Worker.ABSENT and draw(st.booleans()),
        is_draining=worker is not Worker.ABSENT and draw(st.booleans()),
        template=draw(st.sampled_from("tu")),
        is_dead=draw(st.integers(0, 9)) == 0,
        is_leaving=draw(st.integers(0, 9)) == 0,
        age=MINUTE * draw(st.integers(0, 99)),
    )


@st.composite
def a_pool(draw: st.DrawFn) -> list[Pod]:
    return [draw(a_pod(f"p{n}")) for n in range(draw(st.integers(0, 8)))]


@settings(max_examples=300, deadline=None)
@given(a_pool(), st.integers(0, 8), st.booleans(), st.data())
def test_only_pods_whose_worker_cannot_take_or_hold_a_job_go(
    pods: list[Pod], wanted: int, is_late: bool, data: st.DataObject
) -> None:
    drained = data.draw(st.sets(st.sampled_from([each.name for each in pods]))) if pods else set()
    since = NOW - 2 * MINUTE if is_late else None
    made = planned(*pods, wanted=wanted, idle_for=MINUTE, surplus_since=since, drained=tuple(drained))
    by_name = {each.name: each for each in pods}
    for name in made.delete:
        gone = by_name[name]
        has_nothing = gone.is_draining or gone.worker is Worker.ABSENT
        is_stuck = gone.silent_since is not None and NOW - gone.silent_since > SILENT_FOR
        assert gone.is_dead or (not gone.is_busy and (has_nothing or is_stuck))
        assert not gone.is_leaving
    for name in made.drain:
        assert not by_name[name].is_busy
        assert by_name[name].worker is Worker.ALIVE
    assert set(made.drain).isdisjoint({*made.delete, *made.undrain})
    assert set(made.undrain) <= drained
    assert len(set(made.delete)) == len(made.delete)


@settings(max_examples=300, deadline=None)
@given(a_pool(), st.integers(0, 8))
def test_a_pool_ends_with_as_many_pods_as_are_wanted_all_of_the_new_template(pods: list[Pod], wanted: int) -> None:
    """Given rounds enough, jobs that end and workers that answer."""
    present = {each.name: each for each in pods}
    drained: set[str] = set()
    since: datetime | None = None
    now = NOW
    for number in range(60):
        now += 2 * MINUTE
        made = plan(
            list(present.values()), wanted=wanted, idle_for=MINUTE, template="t", surplus_since=since,
            drained=drained, now=now,
        )  # fmt: skip
        since = made.surplus_since
        drained = (drained | set(made.drain)) - set(made.undrain)
        for name in made.delete:
            del present[name]
        for name in made.drain:
            present[name] = replace(present[name], is_draining=True)
        for name in made.undrain:
            present[name] = replace(present[name], is_draining=False)
        # Between two looks: new workers come up, silent ones answer, jobs end, Kubernetes takes what leaves.
        present = {
            name: replace(each, worker=Worker.ALIVE, silent_since=None, is_busy=False)
            for name, each in present.items()
            if not each.is_leaving
        }
        for index in range(made.create):
            fresh = pod(f"n{number}-{index}", worker=Worker.ABSENT, silent_since=now)
            present[fresh.name] = replace(fresh, created_at=now)
    assert len(present) == wanted
    assert {each.template for each in present.values()} <= {"t"}
    assert not [each for each in present.values() if each.is_draining]


a_size = st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 9), st.integers(0, 12))


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 50)), st.lists(a_size, max_size=5))
def test_those_of_one_pool_share_its_work_within_their_limits_and_no_other_has_a_part(
    waiting: dict[str, int], drawn: list[tuple[str, int, int, int]]
) -> None:
    names = [name for name, *_ in drawn]
    sizes = [Size(least=least, most=least + more, idle_for=MINUTE) for _, least, more, _ in drawn]
    busy = [running for *_, running in drawn]
    wanted = share(waiting, names, sizes, busy)
    for count, size, running in zip(wanted, sizes, busy, strict=True):
        assert count >= size.least
        assert count >= running
        assert count <= max(size.most, running)
    for pool in "ab":
        mine = [at for at, name in enumerate(names) if name == pool]
        demand = waiting.get(pool, 0) + sum(busy[at] for at in mine)
        at_least = sum(max(sizes[at].least, busy[at]) for at in mine)
        room = sum(max(sizes[at].most, busy[at]) for at in mine)
        assert sum(wanted[at] for at in mine) == min(max(demand, at_least), room)


def test_the_first_of_a_pool_is_filled_first() -> None:
    sizes = [Size(least=0, most=2, idle_for=MINUTE), Size(least=0, most=5, idle_for=MINUTE)]
    assert share({"default": 3}, ["default", "default"], sizes, [0, 0]) == [2, 1]
    assert share({}, ["default", "default"], sizes, [0, 3]) == [0, 3]


def test_what_waits_for_a_pool_makes_no_other_grow() -> None:
    sizes = [Size(least=0, most=9, idle_for=MINUTE), Size(least=1, most=9, idle_for=MINUTE)]
    assert share({"h100": 3, "mi300": 7}, ["h100", "l40s"], sizes, [1, 0]) == [4, 1]


def test_a_worker_too_many_is_kept_warm_then_drained_then_gone() -> None:
    first = planned(pod(), wanted=0, idle_for=MINUTE)
    assert (first.drain, first.delete, first.surplus_since) == ((), (), NOW)
    second = planned(pod(), wanted=0, idle_for=MINUTE, surplus_since=NOW, now=NOW + MINUTE)
    assert (second.drain, second.delete) == (("a",), ())
    third = planned(pod(is_draining=True), wanted=0, surplus_since=NOW, drained=("a",))
    assert third.delete == ("a",)


def test_a_drain_that_came_after_a_job_was_taken_is_taken_back() -> None:
    made = planned(pod(is_draining=True, is_busy=True), wanted=1, drained=("a",))
    assert (made.undrain, made.delete, made.create) == (("a",), (), 0)


def test_a_drain_by_a_person_stays_and_the_pod_goes_when_it_is_idle() -> None:
    busy = planned(pod(is_draining=True, is_busy=True), wanted=1)
    assert (busy.undrain, busy.delete) == ((), ())
    idle = planned(pod(is_draining=True), wanted=1)
    assert (idle.delete, idle.create) == (("a",), 1)


def test_after_an_outage_in_which_no_worker_could_report_none_goes() -> None:
    pods = [pod(name, worker=Worker.SILENT, silent_since=NOW) for name in "abc"]
    made = planned(*pods, wanted=0, surplus_since=NOW - MINUTE)
    assert (made.drain, made.delete, made.create) == ((), (), 0)


def test_a_pod_that_never_comes_up_is_replaced() -> None:
    made = planned(pod(worker=Worker.ABSENT, silent_since=NOW - SILENT_FOR - MINUTE), wanted=1)
    assert (made.delete, made.create) == (("a",), 1)


def test_pods_of_an_older_template_go_one_at_a_time_and_only_idle_ones() -> None:
    old = [pod("a", template="u"), pod("b", template="u"), pod("c", template="u", is_busy=True)]
    assert planned(*old, wanted=3).drain == ("a",)
    starting = pod("d", worker=Worker.ABSENT, silent_since=NOW)
    assert planned(*old[1:], starting, wanted=3).drain == ()
