# SPDX-License-Identifier: Apache-2.0
"""How a worker's process ends: all that Python does at its end, but no clearing of modules."""

import subprocess
import sys
import time

ENDING = """
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from flprov.workers.start import end_process


class Slow:
    def __del__(self):
        print("cleared")


held = Slow()
pool = ThreadPoolExecutor(1)
pool.submit(lambda: sys.stdout.write("pool\\n"))  # in one go: others write meanwhile
atexit.register(print, "atexit")
threading.Thread(target=lambda: (time.sleep(0.1), sys.stdout.write("thread\\n"))).start()
sys.stdout.write("last words without a newline")
end_process(7)
"""


def end(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )


def test_threads_and_exit_handlers_have_their_say_and_modules_are_not_cleared():
    done = end(ENDING)
    assert done.returncode == 7, done.stderr
    assert sorted(done.stdout.replace("newline", "newline\n").split("\n")) == sorted(
        ["last words without a newline", "pool", "thread", "atexit", ""]
    ), done.stdout


def test_output_that_the_job_has_closed_does_not_stand_in_the_way():
    code = "import sys\nfrom flprov.workers.start import end_process\n"
    assert end(code + "sys.stdout.close()\nsys.stderr = None\nend_process(3)").returncode == 3


def test_a_thread_that_is_not_waited_for_does_not_hold_it_up():
    code = "import threading, time\nfrom flprov.workers.start import end_process\n"
    code += "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\nend_process(0)"
    began = time.monotonic()
    assert end(code).returncode == 0
    assert time.monotonic() - began < 15
