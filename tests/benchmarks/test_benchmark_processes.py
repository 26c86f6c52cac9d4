# SPDX-License-Identifier: Apache-2.0
"""benchmarks/systems: memory as the kernel tells it, and that no process is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from systems.peer import Place
from systems.processes import SERVER, SERVER_JOB, Peaks, descendants, marked, read_memory
from systems.system import Failed, read_marks, wait_for_mark

HUNGRY = "import time; held = bytearray(b'x') * (60 << 20); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path / "peer", tmp_path, {})
    yield made
    made.end()


def test_memory_of_this_process_is_known_and_that_of_none_is_not():
    rss, peak, anon = read_memory(os.getpid())
    assert 0 < anon <= rss <= peak
    assert read_memory(2**22 + 1) is None


def test_peaks_see_what_a_job_process_has_had(tmp_path):
    with Peaks({os.getpid(): SERVER}) as peaks:
        child = subprocess.Popen([sys.executable, "-c", HUNGRY], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"held\n"
        deadline = time.monotonic() + 20
        while SERVER_JOB not in peaks.by_role() or peaks.by_role()[SERVER_JOB].anon < 60:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
        child.communicate()
    found = peaks.by_role()
    assert 60 < found[SERVER_JOB].anon < 120
    assert found[SERVER_JOB].rss >= found[SERVER_JOB].anon
    assert SERVER in found


def test_descendants_are_found_below_their_root():
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as shell:
        deadline = time.monotonic() + 10
        while len(found := descendants([shell.pid])) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in (shell.pid, *found):
            os.kill(pid, 9)
    assert set(found.values()) == {shell.pid}


def test_whatever_was_started_in_a_place_is_ended_even_when_it_has_left_its_parent(place, tmp_path):
    script = tmp_path / "leave"
    script.write_text("#!/bin/sh\nsetsid sleep 60 >/dev/null 2>&1 &\n")
    script.chmod(0o755)
    place.command("leave")
    deadline = time.monotonic() + 10
    while not marked(place.folder) and time.monotonic() < deadline:  # between fork and exec it has no name
        time.sleep(0.01)
    assert marked(place.folder)
    place.end()
    assert not marked(place.folder)


def test_command_that_fails_says_so_with_its_last_words(place, tmp_path):
    script = tmp_path / "fail"
    script.write_text("#!/bin/sh\necho first >&2; echo no such job >&2; exit 3\n")
    script.chmod(0o755)
    with pytest.raises(Failed, match="`fail now` ended with 3: no such job"):
        place.command("fail", "now")


def test_command_that_hangs_is_given_up(place, tmp_path):
    script = tmp_path / "hang"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    with pytest.raises(Failed, match="not done after 0 s"):
        place.command("hang", patience=0.1)


def test_a_round_began_when_its_first_site_did(tmp_path):
    marks = tmp_path / "marks"
    marks.write_text("1 12.5\n0 10.0\n1 12.0\n0 10.5\n")
    assert read_marks(marks) == (10.0, 12.0)
    assert read_marks(tmp_path / "none") == ()


def test_waiting_for_tasks_ends_when_all_sites_have_begun_or_time_is_up(tmp_path):
    marks = tmp_path / "marks"
    marks.write_text("0 1.0\n0 2.0\n")
    wait_for_mark(marks, 2, 1.0)
    with pytest.raises(Failed, match="no task"):
        wait_for_mark(marks, 3, 0.01)
