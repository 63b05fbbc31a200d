"""What a program says when its environment makes no sense."""

import pytest
from bitsmith_api.settings import ApiSettings
from bitsmith_core.settings import DatabaseSettings, Settings, StorageSettings
from bitsmith_operator.settings import OperatorSettings
from bitsmith_worker.settings import GangSettings


def said_by(settings: type[Settings]) -> str:
    with pytest.raises(SystemExit) as ended:
        settings.from_environment()
    return str(ended.value.code)


def test_every_missing_variable_is_named_at_once() -> None:
    said = said_by(StorageSettings)
    for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        assert f"\nBITSMITH_STORAGE_{name}: Field required" in said


def test_what_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_DATABASE_URL", "postgresql+psycopg://u:p@h/db")
    assert DatabaseSettings.from_environment().url.get_secret_value() == "postgresql+psycopg://u:p@h/db"


def test_a_value_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_API_KEY", "hunter2")
    said = said_by(ApiSettings)
    assert "BITSMITH_API_KEY" in said
    assert "at least 8" in said
    assert "hunter2" not in said


def test_the_place_in_a_variable_of_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_OPERATOR_NAMESPACES", '["here"]')
    monkeypatch.setenv("BITSMITH_OPERATOR_PODS", '{"image": ""}')
    assert "BITSMITH_OPERATOR_PODS.image: " in said_by(OperatorSettings)


def test_json_that_is_none_names_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_OPERATOR_NAMESPACES", "here")
    assert '"namespaces"' in said_by(OperatorSettings)


def test_settings_within_settings_say_their_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_API_KEY", "long enough")
    monkeypatch.setenv("BITSMITH_WEBHOOK_ALLOWED_NETWORKS", '["nowhere"]')
    assert "BITSMITH_WEBHOOK_ALLOWED_NETWORKS" in said_by(ApiSettings)


def test_variables_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSMITH_NODES", "2")
    monkeypatch.setenv("BITSMITH_NODE_RANK", "x")
    assert "BITSMITH_NODE_RANK: " in said_by(GangSettings)
    monkeypatch.setenv("BITSMITH_NODE_RANK", "1")
    assert "BITSMITH_LEADER_HOST is needed" in said_by(GangSettings)


def test_settings_that_a_program_does_without_are_given_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not StorageSettings.are_given()
    monkeypatch.setenv("BITSMITH_STORAGE_ENDPOINT", "h:1")
    assert StorageSettings.are_given()
    assert "BITSMITH_STORAGE_SECRET_KEY" in said_by(StorageSettings)
