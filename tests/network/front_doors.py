# SPDX-License-Identifier: Apache-2.0
"""What stands between a site and its server in real networks: tinyproxy, and HAProxy by SNI."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import free_port

TINYPROXY = shutil.which("tinyproxy", path="/usr/bin:/usr/sbin:/usr/local/bin")
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")

_TINYPROXY = """
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 50
LogLevel Info
Allow 127.0.0.1
{login}
"""

_HAPROXY = """
global
  maxconn 100
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend door
  bind fd@{descriptor}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req_ssl_hello_type 1 }}
{rules}
{backends}
"""


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A running tinyproxy and what it has printed."""

    port: int
    printed: list[str]

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}"

    def count(self, words: str) -> int:
        return sum(words in line for line in self.printed)


@contextlib.contextmanager
def tinyproxy(folder: Path, *, login: tuple[str, str] | None = None, port: int = 0) -> Iterator[Proxy]:
    """Debian's tinyproxy in the foreground, until it accepts connections."""
    port = port or free_port()
    config = folder / f"tinyproxy-{port}.conf"
    config.write_text(_TINYPROXY.format(port=port, login=f"BasicAuth {' '.join(login)}" if login else ""))
    assert TINYPROXY is not None
    process = subprocess.Popen(
        [TINYPROXY, "-d", "-c", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed: list[str] = []
    for line in process.stdout:
        printed.append(line)
        if "Accepting connections" in line:
            break
    else:
        raise AssertionError("".join(printed))
    reading = threading.Thread(target=lambda: printed.extend(process.stdout or ()))
    reading.start()
    try:
        yield Proxy(port=port, printed=printed)
    finally:
        process.terminate()
        process.wait(10)
        reading.join()
        process.stdout.close()


@contextlib.contextmanager
def haproxy(folder: Path, names: Mapping[str, int]) -> Iterator[int]:
    """HAProxy passing TLS through unopened: host name in SNI -> port on this machine. Gives its own port."""
    assert HAPROXY is not None
    rules = "\n".join(f"  use_backend b{port} if {{ req_ssl_sni -i {name} }}" for name, port in names.items())
    backends = "\n".join(f"backend b{port}\n  server s 127.0.0.1:{port}" for port in names.values())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        descriptor = listening.fileno()
        config = folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(descriptor=descriptor, rules=rules, backends=backends))
        with (folder / "haproxy.log").open("wb") as log:
            process = subprocess.Popen(
                [HAPROXY, "-db", "-f", str(config)], stdout=log, stderr=log, pass_fds=[descriptor]
            )
        try:
            yield listening.getsockname()[1]
        finally:
            process.terminate()
            process.wait(10)
