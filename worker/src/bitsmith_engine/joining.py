"""How the processes of a run find each other, and how each learns that another one failed or fell silent.

All of it goes through a store that rank 0 keeps (torchrun's agent, where it says so), below a name of this run: what is
left of an earlier one is not heard.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from bitsmith_core.wire import Failed
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store

from bitsmith_engine.errors import RankLost, RanksMissing, Stopped, ToldBy, failed_line
from bitsmith_engine.runtime import Distributed, Ranks, Single

# One process may wait for another that measures or quantizes for hours; one that fails says so, and silent ones are
# noticed.
_LONGEST_WAIT = timedelta(days=7)
_JOIN_WITHIN_S = 1800.0  # another machine may still be fetching the model
_TRY_FOR = timedelta(seconds=10)  # a connection, between two looks at whether it is still wanted

_POLL_S = 0.5
_LOOK_EVERY = 10  # polls
_SILENT_S = 120.0  # loading and saving may keep a process busy
_FAILED_KEY = "failed"
_OVER = "over"

OnAlarm = Callable[[Failed], None]
"""Called in a thread of its own while the main one hangs, so it must end the process."""


@contextmanager
def joined_ranks(
    environment: Mapping[str, str],
    device: torch.device,
    *,
    on_alarm: OnAlarm | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Ranks]:
    """The run's processes, as torchrun describes them to each in its environment; alone where it says nothing.

    Args:
        on_alarm: hears that another process failed or fell silent, which this one may wait for.
        should_stop: asked while the others are waited for.

    Raises:
        RanksMissing: not all came in time, or they do not agree on how many they are.
        Stopped
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Single()
        return
    rank = int(environment["RANK"])
    store = _meet(environment, rank, size, should_stop)
    backend = "nccl" if device.type == "cuda" else "gloo"
    # After a failure the group is left as it is: taking it down may wait for those who wait for this process.
    with _alarmed(store, rank, size, on_alarm):
        distributed.init_process_group(
            backend, store=PrefixStore("ranks", store), rank=rank, world_size=size, timeout=_LONGEST_WAIT
        )
        yield Distributed(device)
    distributed.destroy_process_group()


def _meet(environment: Mapping[str, str], rank: int, size: int, should_stop: Callable[[], bool]) -> Store:
    """The store, once every process has come to it."""
    give_up_at = time.monotonic() + _JOIN_WITHIN_S
    arrived = 0

    def wait() -> None:
        if should_stop():
            raise Stopped("asked to stop while the processes of this run were gathering")
        if time.monotonic() > give_up_at:
            raise RanksMissing(
                f"{arrived} of {size} processes came together within {_JOIN_WITHIN_S / 60:.0f} minutes; "
                "look at the nodes that the others should run on"
            )
        time.sleep(_POLL_S / 5)

    while (found := _connected(environment, rank)) is None:
        wait()
    run = environment.get("TORCHELASTIC_RUN_ID", "run")
    store = PrefixStore(f"{run}/{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", found)
    try:
        _check_size(store, rank, size)
        store.set(_beat_key(rank), "0")
        arrived = store.add("arrived", 1)
        while arrived < size:
            if store.check([_FAILED_KEY]):
                raise ToldBy(Failed.model_validate_json(store.get(_FAILED_KEY)))
            wait()
            arrived = store.add("arrived", 0)
    except distributed.DistError as error:
        raise RankLost(f"rank 0 went while the processes of this run were gathering: {error}") from error
    return store


def _check_size(store: Store, rank: int, size: int) -> None:
    """All wait for as many, or they would wait for ever."""
    agreed = int(store.compare_set("size", "", str(size)))
    if agreed == size:
        return
    error = RanksMissing(
        f"rank {rank} of this run waits for {size} processes and others for {agreed}; every node needs as many: "
        "equally many GPUs, or BITSMITH_WORKER_PROCESSES"
    )
    store.set(_FAILED_KEY, failed_line(error).model_dump_json())
    raise error


def _connected(environment: Mapping[str, str], rank: int) -> Store | None:
    keeps_it = rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    try:
        store: Store = distributed.TCPStore(  # type: ignore[attr-defined]  # torch exports it without saying so
            host, port, is_master=keeps_it, wait_for_workers=False, timeout=_TRY_FOR
        )
    except distributed.DistError as error:
        if keeps_it:
            raise RanksMissing(f"rank 0 cannot listen on port {port}, so nobody can come: {error}") from error
        return None
    store.set_timeout(_LONGEST_WAIT)
    return store


@contextmanager
def _alarmed(store: Store, rank: int, size: int, on_alarm: OnAlarm | None) -> Iterator[None]:
    """Inside, a failure of this process is told to the others, and one of theirs to on_alarm.

    Nothing interrupts a collective operation, and over NCCL it waits for days. So whoever fails says so in the store
    that all found each other through, where a thread of every other process looks.
    """
    is_over = threading.Event()
    if on_alarm is not None:
        own: Store = store.clone()  # type: ignore[attr-defined]  # torch's stub lacks it; one for each thread
        watch = (own, rank, size, on_alarm, is_over)
        threading.Thread(target=_watch, args=watch, name="alarm", daemon=True).start()
    try:
        yield
    except Stopped:  # all stop at one step
        raise
    except Exception as error:
        is_over.set()
        told = _tell(store, error)
        time.sleep(2 * _POLL_S)  # the store may be this process' own, and the others must read it before it goes
        if told is not None:
            raise told from error
        raise
    finally:
        is_over.set()
        with suppress(distributed.DistError):  # whoever keeps the store is gone
            store.set(_beat_key(rank), _OVER)


def _tell(store: Store, error: Exception) -> ToldBy | None:
    """Say why this process fails; answers what another one said before, if that is why."""
    if isinstance(error, RankLost):
        time.sleep(2 * _POLL_S)  # whoever is gone may have a reason, which others heard and went for
    ours = failed_line(error).model_dump_json()
    try:
        said = store.compare_set(_FAILED_KEY, "", ours).decode()
    except distributed.DistError:
        return None
    return ToldBy(Failed.model_validate_json(said)) if isinstance(error, RankLost) and said != ours else None


def _watch(store: Store, rank: int, size: int, on_alarm: OnAlarm, is_over: threading.Event) -> None:
    """Show that this process is there, hear of failures, and on rank 0 notice who shows nothing any more."""
    others = _Others([other for other in range(size) if other != rank] if rank == 0 else [])
    polls = 0
    while not is_over.wait(_POLL_S):
        try:
            failed = Failed.model_validate_json(store.get(_FAILED_KEY)) if store.check([_FAILED_KEY]) else None
            if failed is None and polls % _LOOK_EVERY == 0:
                store.set(_beat_key(rank), str(polls))
                failed = others.look(store)
            polls += 1
        except distributed.DistError:  # whoever keeps the store is gone, as at the end of a good run
            return
        if failed is not None and not is_over.is_set():
            on_alarm(failed)


class _Others:
    """When each of them last showed something new."""

    def __init__(self, ranks: list[int]) -> None:
        self._last = dict.fromkeys(ranks, ("", time.monotonic()))

    def look(self, store: Store) -> Failed | None:
        now = time.monotonic()
        for rank, (before, since) in self._last.items():
            shown = store.get(_beat_key(rank)).decode()
            if shown != before or shown == _OVER:
                self._last[rank] = (shown, now)
            elif now - since > _SILENT_S:
                return failed_line(RankLost(f"rank {rank} of this run has been silent for {now - since:.0f} s"))
        return None


def _beat_key(rank: int) -> str:
    return f"beat/{rank}"
