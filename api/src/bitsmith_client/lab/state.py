"""The state folder of a lab: who runs it, and what must stay the same from one start to the next.

.bitsmith/lab.json   ports and credentials, readable by its owner only
.bitsmith/lock       held while a lab runs
.bitsmith/logs/      one log per process
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitsmith_client.lab import servers
from bitsmith_client.lab.child import StartFailed

DEFAULT_FOLDER = Path(".bitsmith")
DEFAULT_PORT = 8000


class AlreadyRunning(StartFailed):
    pass


def _secret() -> str:
    return secrets.token_urlsafe(24)


class LabConfig(BaseModel):
    """Made once, kept in lab.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    api_port: int
    postgres_port: int = Field(default_factory=servers.free_port)
    valkey_port: int = Field(default_factory=servers.free_port)
    s3_port: int = Field(default_factory=servers.free_port)
    serving_port: int = Field(default_factory=servers.free_port)
    api_key: str = Field(default_factory=lambda: f"bsk_{_secret()}", repr=False)
    postgres_password: str = Field(default_factory=_secret, repr=False)
    valkey_password: str = Field(default_factory=_secret, repr=False)
    serving_token: str = Field(default_factory=_secret, repr=False)
    s3_access_key: str = "bitsmith"
    s3_secret_key: str = Field(default_factory=_secret, repr=False)
    postgres_folder: Path  # may lie elsewhere: servers.postgres_folder says why

    @property
    def url(self) -> str:
        return f"http://{servers.LOOPBACK}:{self.api_port}"

    @property
    def serving_url(self) -> str:
        return f"http://{servers.LOOPBACK}:{self.serving_port}"

    @property
    def database_url(self) -> str:
        return (
            f"postgresql+psycopg://{servers.USER}:{self.postgres_password}"
            f"@{servers.LOOPBACK}:{self.postgres_port}/postgres"
        )

    @property
    def queue_url(self) -> str:
        return f"redis://:{self.valkey_password}@{servers.LOOPBACK}:{self.valkey_port}/0"

    @property
    def s3_endpoint(self) -> str:
        return f"{servers.LOOPBACK}:{self.s3_port}"

    def with_free_ports(self, *, api_port: int | None = None) -> Self:
        """The same, but for ports that somebody else has taken meanwhile, or that are asked to be others."""
        wanted = {
            "api_port": api_port or self.api_port,
            "postgres_port": self.postgres_port,
            "valkey_port": self.valkey_port,
            "s3_port": self.s3_port,
            "serving_port": self.serving_port,
        }
        return self.model_copy(update={name: _free_or_other(port) for name, port in wanted.items()})


class LabState:
    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.logs = self.folder / "logs"
        self.models = self.folder / "models"  # what local: references name
        self.scratch = self.folder / "scratch"
        self.serving = self.folder / "serving"  # downloaded models and the logs of their engines
        self._config = self.folder / "lab.json"
        self._lock = self.folder / "lock"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.folder, self.logs, self.models, self.scratch, self.serving):
            folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> LabConfig | None:
        """What an earlier start chose, if there was one.

        Raises:
            StartFailed: lab.json is damaged; with it would go the key to the data.
        """
        try:
            return LabConfig.model_validate_json(self._config.read_bytes())
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise StartFailed(
                f"{self._config} may be read by its owner only, and you are not; use --url and --key"
            ) from error
        except (ValidationError, ValueError) as error:
            raise StartFailed(
                f"{self._config} is damaged; restore it, or remove {self.folder} with all data in it"
            ) from error

    def load_or_make(self) -> LabConfig:
        known = self.load()
        if known is not None:
            return known
        if (self.folder / "postgres" / "data" / "PG_VERSION").exists():
            raise StartFailed(
                f"{self.folder} holds data but no lab.json with the keys to it; restore it, or remove the folder"
            )
        return LabConfig(api_port=DEFAULT_PORT, postgres_folder=servers.postgres_folder(self.folder))

    def save(self, config: LabConfig) -> None:
        """Replace lab.json in one step: a kill while writing leaves the old one."""
        part = self._config.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(config.model_dump(mode="json"), file, indent=2)
        part.replace(self._config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While held, no other lab runs on this folder. The kernel lets go of it when we die, however we die.

        Raises:
            AlreadyRunning: naming who has it.
        """
        with self._lock.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise AlreadyRunning(
                    f"a lab runs on {self.folder} already (process {lock.read().strip() or 'unknown'}); "
                    "use it, stop it, or give another folder with --state"
                ) from error
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def is_running(self) -> bool:
        try:
            with self._lock.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def _free_or_other(port: int) -> int:
    return port if servers.is_free(port) else servers.free_port()
