"""What a lab keeps from one start to the next, and that only one runs."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bitsmith_client.lab import servers
from bitsmith_client.lab.child import StartFailed
from bitsmith_client.lab.state import AlreadyRunning, LabConfig, LabState


@pytest.fixture
def state(tmp_path: Path) -> LabState:
    state = LabState(tmp_path / "state")
    state.prepare()
    return state


def config(state: LabState) -> LabConfig:
    return LabConfig(api_port=servers.free_port(), postgres_folder=state.folder / "postgres")


def test_what_was_chosen_once_is_chosen_again(state: LabState) -> None:
    chosen = config(state)
    state.save(chosen)
    assert LabState(state.folder).load_or_make() == chosen


def test_credentials_are_for_their_owner_only_also_when_saved_again(state: LabState) -> None:
    for _ in range(2):
        state.save(config(state))
        assert stat.S_IMODE((state.folder / "lab.json").stat().st_mode) == 0o600


def test_credentials_are_not_shown_in_messages(state: LabState) -> None:
    chosen = config(state)
    for secret in (chosen.api_key, chosen.postgres_password, chosen.valkey_password, chosen.s3_secret_key):
        assert len(secret) >= 24
        assert secret not in repr(chosen)


def test_a_port_that_somebody_took_is_chosen_anew_and_the_others_stay(state: LabState) -> None:
    chosen = config(state)
    with socket.create_server((servers.LOOPBACK, chosen.api_port)):
        again = chosen.with_free_ports()
    assert again.api_port != chosen.api_port
    assert again == chosen.model_copy(update={"api_port": again.api_port})


def test_a_damaged_lab_json_is_said_and_not_replaced(state: LabState) -> None:
    (state.folder / "lab.json").write_text('{"api_port": 80')
    with pytest.raises(StartFailed, match=r"lab\.json is damaged"):
        state.load_or_make()


def test_data_without_its_keys_are_said_and_not_overwritten(state: LabState) -> None:
    (state.folder / "postgres" / "data").mkdir(parents=True)
    (state.folder / "postgres" / "data" / "PG_VERSION").write_text("18")
    with pytest.raises(StartFailed, match=r"no lab\.json"):
        state.load_or_make()


def test_a_second_lab_on_the_same_folder_is_refused(state: LabState) -> None:
    assert not state.is_running()
    with state.locked():
        assert state.is_running()
        with pytest.raises(AlreadyRunning, match=str(os.getpid())), LabState(state.folder).locked():
            pass
    assert not state.is_running()


def test_a_killed_lab_holds_nothing(state: LabState) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from bitsmith_client.lab.state import LabState\n"
        "with LabState(Path(sys.argv[1])).locked(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, state.folder], check=False)
    assert killed.returncode == -9
    with state.locked():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run Postgres as somebody else")
def test_postgres_gets_a_private_folder_elsewhere_where_its_account_cannot_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "state").mkdir()
    folder = servers.postgres_folder(tmp_path / "state")
    assert folder.parent == Path("/var/tmp")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700  # ours to leave alone
    folder.rmdir()


def test_no_port_of_the_object_store_is_another_s_second_one(tmp_path: Path) -> None:
    """The server takes 10000 above each port as well, and does not start where two of all these are equal."""
    for _ in range(300):
        spec = servers.seaweedfs(tmp_path, port=servers.free_port(), access_key="a", secret_key="s")
        ports = [int(word.partition(".port=")[2]) for word in map(str, spec.command) if ".port=" in word]
        assert len(ports) == 5
        assert len({*ports, *(port + 10_000 for port in ports)}) == 10
