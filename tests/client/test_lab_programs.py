"""A lab's programs find all the servers they ask for, by the names that their own settings read."""

from pathlib import Path

import pytest
from bitsmith_api.settings import ApiSettings
from bitsmith_client.lab import programs
from bitsmith_client.lab.child import ChildSpec
from bitsmith_client.lab.state import LabConfig, LabState
from bitsmith_core.settings import DatabaseSettings, QueueSettings, StorageSettings

CONFIG = LabConfig(api_port=8000, postgres_folder=Path("/nowhere"))
STATE = LabState(Path("/nowhere"))

ALL = [
    programs.api(CONFIG),
    programs.scheduler(CONFIG),
    programs.worker(CONFIG, STATE),
    programs.serving(CONFIG, STATE),
]


def enter(spec: ChildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in spec.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: str(spec.name))
def test_every_program_is_told_where_the_servers_are(spec: ChildSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler sweeps the object store, so it needs that one, too."""
    enter(spec, monkeypatch)
    storage = StorageSettings()  # type: ignore[call-arg]  # from the environment
    assert (storage.endpoint, storage.access_key, storage.secure) == (CONFIG.s3_endpoint, "bitsmith", False)
    assert storage.secret_key.get_secret_value() == CONFIG.s3_secret_key
    assert DatabaseSettings().url.get_secret_value() == CONFIG.database_url  # type: ignore[call-arg]
    assert QueueSettings().url.get_secret_value() == CONFIG.queue_url  # type: ignore[call-arg]


def test_the_labs_api_counts_requests_where_all_its_processes_would(monkeypatch: pytest.MonkeyPatch) -> None:
    enter(programs.api(CONFIG), monkeypatch)
    settings = ApiSettings()  # type: ignore[call-arg]  # from the environment
    assert settings.limits_url is not None
    assert settings.limits_url.get_secret_value() == CONFIG.queue_url
    assert settings.serving_url == CONFIG.serving_url
