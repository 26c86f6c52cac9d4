# SPDX-License-Identifier: Apache-2.0
"""benchmarks/phases.py: what is measured of a system, and what happens when it fails."""

from __future__ import annotations

import pytest
from bench import take_turns
from book import Book
from phases import Run, commands, network, no_room, simulation
from rows import MB, ROUNDS
from systems.processes import ALL, SERVER, Peak
from systems.system import Failed, Job, NotRun, Ran


class FakeNetwork:
    """Rounds of a second each; fails jobs of one size."""

    ready_after = 2.0

    def __init__(self, system):
        self.system = system

    def status(self):
        self.system.asked.append("status")

    def run(self, job: Job, *, watch: bool = False) -> Ran:
        self.system.asked.append(job)
        if job.size == self.system.fails_at:
            raise Failed("out of memory")
        peaks = {SERVER: Peak(rss=30.0, anon=20.0, processes=1), ALL: Peak(rss=2000.0, anon=1.0, processes=4)}
        return Ran(
            submitted=10.0, began=tuple(11.0 + n for n in range(job.rounds)), peaks=peaks if watch else {}
        )

    def abort(self):
        return 1.1

    def down(self):
        self.system.asked.append("down")


class FakeSystem:
    name = "flare"
    title = "NVIDIA FLARE"
    settings = ()

    def __init__(self, *, fails_at=None, starts=True):
        self.asked = []
        self.fails_at = fails_at
        self.starts = starts
        self.ups = 0

    def version(self):
        return "1"

    def help(self):
        self.asked.append("help")

    def provision(self, folder, sites):
        raise NotRun("has no provisioning")

    def up(self, folder, sites):
        self.ups += 1
        if not self.starts:
            raise Failed("port 8002 is taken")
        return FakeNetwork(self)

    def simulate(self, folder, *, sites, rounds, size):
        self.asked.append((sites, rounds, size))
        return tuple(float(5 * number) for number in range(rounds))


@pytest.fixture
def book(tmp_path):
    return Book(tmp_path / "results")


def run_of(book, tmp_path, *patterns):
    return Run(book=book, folder=tmp_path, patterns=patterns or ("*",))


def test_rounds_are_told_by_what_lies_between_their_first_tasks(book, tmp_path):
    network(run_of(book, tmp_path, "round/10MB/2"), 2, FakeSystem())
    (row,) = [row for row in ROUNDS if row.key == "round/10MB/2"]
    assert book.cells[row.key]["flare"].values == (1.0,) * (row.rounds["flare"] - 1)


def test_first_task_counts_from_the_submit_command(book, tmp_path):
    network(run_of(book, tmp_path, "first/numpy"), 2, FakeSystem())
    assert book.median("first/numpy", "flare") == 1.0


def test_watched_rounds_give_memory_too(book, tmp_path):
    network(run_of(book, tmp_path, "round/100MB/2"), 2, FakeSystem())
    cell = book.cells["memory/100MB/2/server"]["flare"]
    assert (cell.median, cell.rss) == (20.0, 30.0)


def test_a_row_that_fails_is_noted_and_the_next_has_a_new_network(book, tmp_path):
    system = FakeSystem(fails_at=MB)
    network(run_of(book, tmp_path, "round/1MB/2", "round/10MB/2"), 2, system)
    assert book.cells["round/1MB/2"]["flare"].failed == "out of memory"
    assert book.median("round/10MB/2", "flare") == 1.0
    assert system.ups == 2
    assert system.asked[-1] == "down"


def test_a_network_that_does_not_start_fails_its_rows(book, tmp_path):
    network(run_of(book, tmp_path, "status", "start/2"), 2, FakeSystem(starts=False))
    assert book.cells["start/2"]["flare"].failed == "port 8002 is taken"
    assert "port 8002" in book.cells["status"]["flare"].failed


def test_rows_that_nobody_asked_for_start_no_network(book, tmp_path):
    system = FakeSystem()
    network(run_of(book, tmp_path, "help"), 8, system)
    assert system.ups == 0


def test_what_a_system_does_not_have_is_not_a_failure(book, tmp_path):
    commands(run_of(book, tmp_path, "provision/100"), FakeSystem())
    assert book.cells["provision/100"]["flare"].not_run == "has no provisioning"


def test_many_sites_are_left_out_when_fewer_took_too_much_memory(book, tmp_path):
    network(run_of(book, tmp_path, "round/100MB/8"), 8, FakeSystem())
    (many,) = [row for row in ROUNDS if row.size == "100MB" and row.sites == 32]
    assert no_room(book, "flare", many) == ""
    book.extra["memory"]["round/100MB/8"]["flare"][ALL]["rss"] = 1e9
    assert "8 sites took" in no_room(book, "flare", many)


def test_missing_rounds_of_a_simulation_are_counted_as_long_as_the_first(book, tmp_path):
    system = FakeSystem()
    system.name = "flower"
    simulation(run_of(book, tmp_path, "simulate/*"), system)
    assert system.asked == [(8, 10, 0), (1000, 2, MB)]
    assert book.median("simulate/1000x10", "flower") == pytest.approx(8 * 5.0, abs=1)


def test_ours_has_its_turns_before_and_after_its_peers():
    class Named:
        def __init__(self, name):
            self.name = name

    order = []
    systems = [Named("flprov"), Named("flare"), Named("flower")]
    take_turns(systems, 2, lambda system: order.append(system.name))
    assert order == ["flprov", "flare", "flower", "flprov"]
