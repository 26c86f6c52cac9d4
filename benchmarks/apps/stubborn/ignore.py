# SPDX-License-Identifier: Apache-2.0
"""Ignores SIGTERM, and so does a grandchild in a session of its own; both go on for an hour."""

import os
import signal
import time

import flprov.client as fl


def escape() -> bool:
    """Fork twice, so that the second child is in a session of its own; True in that child."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


fl.init()
fl.receive()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
escaped = escape()
print("stubborn", "and escaped" if escaped else "", os.getpid(), flush=True)
while True:
    time.sleep(3600)
