# SPDX-License-Identifier: Apache-2.0
"""Running `flprov` as a person does: in this process, or in a real one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flprov._base import from_document

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def document(self, kind: type[T]) -> T:
        """The one JSON document on stdout."""
        return from_document(kind, self.json())

    def json(self) -> Any:
        return json.loads(self.out)


def run_process(*words: str, folder: Path, environment: Mapping[str, str] | None = None) -> Ran:
    """`flprov ...` in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLPROV_")}
    done = subprocess.run(
        [sys.executable, "-m", "flprov", *words],
        cwd=folder,
        env={**inherited, "XDG_CONFIG_HOME": str(folder / "config"), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)


@contextlib.contextmanager
def speaking(state: Path, answer: bytes) -> Iterator[None]:
    """A server or agent that says `answer` to whoever asks on its machine."""
    state.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(state / "status.sock"))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed at the end
                while True:
                    with listener.accept()[0] as connection:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
