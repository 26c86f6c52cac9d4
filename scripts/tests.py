# SPDX-License-Identifier: Apache-2.0
"""`make test`: pytest, and a second try for the few tests that failed, each in a fresh process.

These tests start real servers, kill real processes and measure real disks; on a busy machine one in
ten thousand loses a race that no user would notice. A test that fails twice is broken. One that passes
the second time is named at the end: it is a defect to mend, in the test or in what it found. So is what
some test has left behind and nobody collected before the end: which one it was is not known any more.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

MOST = 3  # tests that are tried again; more are no accident


class Outcome:
    """Remembers what failed, and how it all ended."""

    def __init__(self) -> None:
        self.failed: dict[str, None] = {}
        self.status: int = pytest.ExitCode.INTERNAL_ERROR

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed[report.nodeid] = None

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.status = int(exitstatus)


def main(arguments: list[str]) -> int:
    """The exit status."""
    outcome, remarks = Outcome(), []
    try:
        pytest.main(arguments, plugins=[outcome])
    except pytest.PytestUnraisableExceptionWarning as warning:  # collected behind the last test
        remarks.append(f"LEFT BEHIND by some test: {warning.__cause__ or warning}")
    status = outcome.status
    if status == pytest.ExitCode.TESTS_FAILED and 0 < len(outcome.failed) <= MOST:
        broken = [test for test in outcome.failed if fails_again(test)]
        words = {True: "FAILED twice", False: "FLAKY (passed when tried again)"}
        remarks += [f"{words[test in broken]}: {test}" for test in outcome.failed]
        status = status if broken else 0
    for remark in remarks:
        print(remark)
    return status


def fails_again(test: str) -> bool:
    """Whether a test fails in a process of its own, too."""
    return subprocess.run([sys.executable, "-m", "pytest", test]).returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
