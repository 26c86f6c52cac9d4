# SPDX-License-Identifier: Apache-2.0
"""Numbers arrive while the round that tells them still runs, and a flood of them delays no abort."""

from __future__ import annotations

import time
from itertools import islice

import pytest
from harness import Network, write_app

from flprov.wire import SeriesPoint

pytestmark = pytest.mark.network

TELLS = """
import time

def train(task, site):
    for step in range(5):
        site.log("loss", 1.0 / (step + 1), step=step)
    while True:
        time.sleep(0.05)
"""

FLOODS = """
import flprov.client as fl

def train(task, site):
    number = 0
    while True:
        number += 1
        fl.log({f"m{n}": number for n in range(50)})
"""


@pytest.fixture(scope="module")
def network(shared_network: Network) -> Network:
    return shared_network


def test_numbers_arrive_while_the_round_still_runs(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "tells", train=TELLS))
    seen = (line for part in admin.series(job.job_id, follow=True) for line in part)
    points = list(islice((line for line in seen if isinstance(line, SeriesPoint)), 10))
    assert admin.job(job.job_id).rounds_done == 0
    assert {point.site for point in points} == {"site-1", "site-2"}
    assert sorted(point.step for point in points) == sorted([*range(5)] * 2)
    admin.abort(job.job_id)
    admin.wait(job.job_id, timeout=60)


def test_a_flood_of_numbers_delays_no_abort(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "floods", train=FLOODS))
    next(line for part in admin.series(job.job_id, follow=True) for line in part)
    began = time.monotonic()
    admin.abort(job.job_id)
    assert admin.wait(job.job_id, timeout=60).state == "aborted"
    assert time.monotonic() - began < 10
