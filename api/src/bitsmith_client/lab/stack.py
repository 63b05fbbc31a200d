"""One lab from start to stop: processes in order of need, kept alive meanwhile, ended in reverse."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from bitsmith_client.lab import programs, servers
from bitsmith_client.lab.child import Child, ChildSpec, end_leftover
from bitsmith_client.lab.state import LabConfig, LabState

STOP_ORDER = ("worker", "scheduler", "api", "serving", "seaweedfs", "valkey", "postgres")
LOOK_EVERY_S = 0.3
HEALTHY_AFTER_S = 60.0  # a process that lived this long starts with a clean record
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


def restart_delay_s(deaths: int) -> float:
    """How long to wait after so many deaths in a row."""
    return RESTART_DELAYS_S[min(deaths, len(RESTART_DELAYS_S)) - 1]


@dataclass
class _Watched:
    child: Child
    started_at: float = field(default_factory=time.monotonic)
    deaths: int = 0
    restart_at: float | None = None


class Stack:
    """`with Stack(state) as stack:` and the platform runs at `stack.config.url`.

    Raises:
        AlreadyRunning: another lab has the folder.
        StartFailed: with the end of the log of what did not start.
    """

    config: LabConfig

    def __init__(
        self, state: LabState, *, api_port: int | None = None, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.state = state
        self._api_port = api_port
        self._say = say
        self._watched: dict[str, _Watched] = {}
        self._closing = threading.Event()
        self._starting = threading.Lock()  # nothing starts once closing is set
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.state.prepare()
            undo.enter_context(self.state.locked())
            pool = undo.enter_context(ThreadPoolExecutor(len(STOP_ORDER), thread_name_prefix="lab"))
            undo.callback(self._stop)
            self._start(pool)
            pool.submit(self._keep_alive)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def pid(self, name: str) -> int | None:
        """Of the process as it runs now; for people who want to look, and for tests that want to kill."""
        watched = self._watched.get(name)
        return watched.child.pid if watched and watched.child.is_running() else None

    def _start(self, pool: ThreadPoolExecutor) -> None:
        for name in STOP_ORDER:
            end_leftover(self.state.logs / f"{name}.pid")
        config = self.config = self.state.load_or_make().with_free_ports(api_port=self._api_port)
        self.state.save(config)

        self._say("starting Postgres, Valkey and SeaweedFS")
        folder = self.state.folder
        _all(
            pool.submit(self._launch, spec)
            for spec in (
                lambda: servers.postgres(
                    config.postgres_folder, port=config.postgres_port, password=config.postgres_password
                ),
                lambda: servers.valkey(folder / "valkey", port=config.valkey_port, password=config.valkey_password),
                lambda: servers.seaweedfs(
                    folder / "s3", port=config.s3_port, access_key=config.s3_access_key, secret_key=config.s3_secret_key
                ),
            )
        )
        _all([pool.submit(programs.migrate, config), pool.submit(programs.ensure_bucket, config)])

        self._say("starting API, scheduler, worker and serving")
        _all(
            pool.submit(self._launch, spec)
            for spec in (
                lambda: programs.api(config),
                lambda: programs.scheduler(config),
                lambda: programs.worker(config, self.state),
                lambda: programs.serving(config, self.state),
            )
        )

    def _launch(self, make_spec: Callable[[], ChildSpec]) -> None:
        child = Child(make_spec(), self.state.logs)
        with self._starting:
            if self._closing.is_set():
                return
            self._watched[child.spec.name] = _Watched(child)
            child.start()
        child.wait_ready()

    def _keep_alive(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            for watched in self._watched.values():
                self._look_at(watched, time.monotonic())

    def _look_at(self, watched: _Watched, now: float) -> None:
        if watched.child.is_running():
            return
        name = watched.child.spec.name
        if watched.restart_at is None:
            watched.deaths = 1 if now - watched.started_at > HEALTHY_AFTER_S else watched.deaths + 1
            delay_s = restart_delay_s(watched.deaths)
            watched.restart_at = now + delay_s
            self._log(f"{name} ended with status {watched.child.exit_status}; starting it again in {delay_s:g} s")
        elif now >= watched.restart_at:
            with self._starting:
                if self._closing.is_set():
                    return
                watched.restart_at, watched.started_at = None, now
                try:
                    watched.child.start()
                except OSError as error:  # no memory, no processes; the next look tries again
                    self._log(f"{name} did not start: {error}")
                    return
            self._log(f"{name} started again")

    def _stop(self) -> None:
        """In order; a second Ctrl-C ends everything at once."""
        self._closing.set()
        with self._starting:
            pass  # what was starting is listed now
        running = [self._watched[name].child for name in STOP_ORDER if name in self._watched]
        try:
            if running:
                self._say("stopping")
            for child in running:
                child.stop()
        except KeyboardInterrupt:
            for child in running:
                child.kill()

    def _log(self, text: str) -> None:
        with (self.state.logs / "lab.log").open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
        self._say(text)


def _all(futures: Iterable[Future[None]]) -> None:
    """Wait for every one; the first failure is raised at once, and what still starts is stopped with the rest."""
    for future in as_completed(list(futures)):
        future.result()
