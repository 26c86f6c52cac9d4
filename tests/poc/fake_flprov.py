# SPDX-License-Identifier: Apache-2.0
"""Stands in for `flprov server|site start KIT`: says READY=1, answers on its socket, ends on SIGTERM.

What else it does, the environment says by party: FAKE_SITE_1=die | silent | stubborn | lonely | family.
Started as `python -I -S fake_flprov.py KIND start KIT`, so it needs the standard library alone.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Be a server or a site."""
    kind, _, kit = sys.argv[1:]
    name = Path(kit).name
    does = os.environ.get(f"FAKE_{name.upper().replace('-', '_')}", "")
    print(f"{kind} {name} begins", flush=True)
    if does == "die":
        print("error: something is wrong here", flush=True)
        sys.exit(3)
    if does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if does == "family":
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    state = Path(f"{kit}.local") / "state"
    state.mkdir(parents=True, exist_ok=True)
    (state / "status.sock").unlink(missing_ok=True)
    os.chdir(state)  # a short name for the socket
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("status.sock")
    listener.listen()
    if does != "silent":
        notify("READY=1")
    answer = {"name": name}
    if kind == "site":
        answer["connected"] = does != "lonely"
        answer["link"] = {"reason": "nothing listens" if does == "lonely" else ""}
    while True:
        connection, _ = listener.accept()
        connection.sendall(json.dumps(answer).encode())
        connection.close()


def notify(state: str) -> None:
    """sd_notify(3)."""
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), f"\0{address[1:]}")


if __name__ == "__main__":
    main()
