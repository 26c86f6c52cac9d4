# SPDX-License-Identifier: Apache-2.0
"""`make test`: pytest, and a second try for the few tests that failed, each in a fresh process.

These tests start real servers, kill real processes and measure real disks; on a busy machine one in
ten thousand loses a race that no user would notice. A test that fails twice is broken. One that passes
the second time is named at the end: it is a defect to mend, in the test or in what it found.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

MOST = 3  # tests that are tried again; more are no accident


class Failures:
    """Remembers what failed."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.ids[report.nodeid] = None


def main(arguments: list[str]) -> int:
    """The exit status."""
    failures = Failures()
    status = int(pytest.main(arguments, plugins=[failures]))
    if status != pytest.ExitCode.TESTS_FAILED or not 0 < len(failures.ids) <= MOST:
        return status
    broken = [
        test for test in failures.ids if subprocess.run([sys.executable, "-m", "pytest", test]).returncode
    ]
    for test in failures.ids:
        print(f"{'FAILED twice' if test in broken else 'FLAKY (passed when tried again)'}: {test}")
    return status if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
