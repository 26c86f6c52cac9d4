# SPDX-License-Identifier: Apache-2.0
"""Real SSH servers on loopback: OpenSSH's sshd, one process per connection (`sshd -i`), each its own keys.

We accept the connections, so there is no port to wait for, a connection can be cut after a number of
bytes, and its sshd can be killed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from flprov.kits import Destination, Login, parse_host_key

_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SSHD = shutil.which("sshd", path=_PLACES)
KEYGEN = shutil.which("ssh-keygen", path=_PLACES)
needs_sshd = pytest.mark.skipif(
    not (SSHD and KEYGEN), reason="sshd is not installed here (Debian: openssh-server, openssh-client)"
)


def make_key(path: Path, *, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A key pair: `path` and `path.pub`."""
    words = [KEYGEN, "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", path]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


class Host:
    """A machine that one can log in to by SSH."""

    def __init__(
        self,
        folder: Path,
        authorized: Path,
        *,
        lines: str = "",
        path: str = "/usr/sbin:/usr/bin:/sbin:/bin",
        kinds: tuple[str, ...] = ("ed25519",),
    ):
        folder.mkdir()
        self.keys = [make_key(folder / f"host_{kind}", kind=kind) for kind in kinds]
        self.log = folder / "sshd.log"
        self.cut_after: int | None = None  # bytes from the client, of the next connections
        self.connections = 0
        self._config = folder / "sshd_config"
        self._config.write_text(
            "".join(f"HostKey {key}\n" for key in self.keys)
            + f"AuthorizedKeysFile {authorized}.pub\nUsePAM no\nStrictModes no\nPidFile none\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"Subsystem sftp internal-sftp\nLogLevel DEBUG1\n{lines}"
            f"SetEnv PATH={path} HOME={folder}\n"  # not this user's own .bashrc
        )
        self._processes: list[subprocess.Popen] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._accepting = self._run(self._accept)

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    @property
    def public_key(self) -> str:
        """Of the first host key, without the comment."""
        return " ".join(self.keys[0].with_suffix(".pub").read_text().split()[:2])

    def login(self, *, pinned: bool = True) -> Login:
        keys = (parse_host_key(self.public_key),) if pinned else ()
        return Login(user=getpass.getuser(), host="127.0.0.1", port=self.port, keys=keys)

    def destination(self, kit: Path, folder: Path | str, **login) -> Destination:
        return Destination(kit=kit, login=self.login(**login), folder=str(folder))

    def kill(self) -> None:
        """SIGKILL every sshd of this host, with what it started."""
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for found in [parent, *parent.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        self.kill()
        for sock in self._sockets:
            _close(sock)
        for process in self._processes:
            process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for sock in self._sockets:
            sock.close()

    def _run(self, target, *arguments) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.cut_after is None:
                self._serve(client)
                client.close()
                continue
            ours, theirs = socket.socketpair()
            self._serve(theirs)
            theirs.close()
            self._sockets += [client, ours]
            self._threads.append(self._run(_pump, client, ours, self.cut_after))
            self._threads.append(self._run(_pump, ours, client, None))

    def _serve(self, sock: socket.socket) -> None:
        words = [SSHD, "-i", "-E", self.log, "-f", self._config]
        self._processes.append(subprocess.Popen(words, stdin=sock, stdout=sock, stderr=subprocess.DEVNULL))


def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Pass bytes on; after `limit` of them cut the line at once, in both directions."""
    passed = 0
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16 if limit is None else max(1, min(1 << 16, limit - passed))):
            target.sendall(data)
            passed += len(data)
            if limit is not None and passed >= limit:
                break
    _close(source)
    _close(target)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def running_hosts(folder: Path):
    """host(**options) -> a Host; all are gone at the end. `.key` logs in to each."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists; the package's service makes it
    made: list[Host] = []
    key = make_key(folder / "login_key")

    def host(**options) -> Host:
        made.append(Host(folder / f"host-{len(made)}", key, **options))
        return made[-1]

    host.key = key
    try:
        yield host
    finally:
        for one in made:
            one.close()
