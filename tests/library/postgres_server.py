"""A PostgreSQL server of Debian's package, on loopback, for tests; as root it runs as the user ``postgres``."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder with initdb and pg_ctl; None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return Path(on_path).resolve().parent if on_path else found[-1].parent if found else None


class PostgresServer:
    """A server with one database, ``test``, of the user ``rkd``, whose password is ``a-secret``.

    ``folder`` must be open to the user ``postgres``, all the way down; it is made.
    """

    def __init__(self, folder: Path, bin: Path) -> None:
        self._data, self._bin, self._log = folder / "data", bin, folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"postgresql://rkd:a-secret@127.0.0.1:{self.port}/postgres"
        folder.mkdir(parents=True)
        password = folder / "password"
        password.write_text("a-secret")
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "rkd", "--pwfile", str(password), "-A", "scram-sha-256", "-N")
        self._data_settings()

    def create(self, database: str) -> str:
        """A further database; returns its address."""
        with closing(psycopg2.connect(self.address)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {database}")
        return f"{self.address.rpartition('/')[0]}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run("pg_ctl", "-D", str(self._data), "-l", str(self._log), "-w", "start")

    def stop(self, how: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a crash is."""
        self._run("pg_ctl", "-D", str(self._data), "-m", how, "-w", "stop")

    def _data_settings(self) -> None:
        lines = ("listen_addresses = '127.0.0.1'", f"port = {self.port}", "fsync = off", "unix_socket_directories = ''")
        settings = self._data / "postgresql.conf"
        settings.write_text(settings.read_text() + "\n".join(lines) + "\n")

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*as_user, str(self._bin / program), *arguments]
        with self._log.with_suffix(".of_commands").open("a") as said:
            subprocess.run(
                command, check=True, stdout=said, stderr=said, stdin=subprocess.DEVNULL, cwd="/", timeout=120,
                env={"PATH": os.environ["PATH"]},  # a server that is started again would look like a part of the test
            )  # fmt: skip


@contextmanager
def serving(bin: Path) -> Iterator[PostgresServer]:
    """A server for the block."""
    # Not among pytest's own folders: they are closed to other users, by every pytest that starts meanwhile.
    with tempfile.TemporaryDirectory(prefix="rkd-postgres-") as folder:
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder) / "server", bin)
        server.start()
        try:
            yield server
        finally:
            server.stop()
