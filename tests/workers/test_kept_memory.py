# SPDX-License-Identifier: Apache-2.0
"""What a process has freed it uses again, up to a limit, without fresh pages from the system."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np
from flprov._base import keep_freed_memory
keep_freed_memory(kept=int(sys.argv[1]) << 20, one_heap=False)
def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024
before = held()
update = [np.ones(8 << 20, np.uint8) for _ in range(12)]
full = held()
del update
print(full - before, held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize(("kept", "least", "most"), [(256, 90, 110), (32, 0, 45)])
def test_freed_memory_stays_up_to_a_limit(kept, least, most):
    words = [sys.executable, "-c", SCRIPT, str(kept)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    full, after = map(float, done.stdout.split())
    assert full > 90
    assert least <= after <= most
