# SPDX-License-Identifier: Apache-2.0
"""Links as bad as they get, between real processes: what has to be noticed is, and an abort never waits.

A short sample; benchmarks/faults tries all of it, and for longer.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from netns import BadLinks

sys.path.insert(0, str(Path(__file__).parents[1] / "network"))

from harness import Network, write_app

pytestmark = [pytest.mark.network, pytest.mark.slow]

MODEL = """
import numpy as np


def initial():
    return {"w": np.arange(2_500_000, dtype=np.float32)}
"""

TRAIN = """
import time
import numpy as np
from flprov.messages import Update


def train(task, site):
    print("at work", flush=True)
    while not (site.data("gate") / site.name).exists():
        time.sleep(0.02)
    return Update(params={"w": task.params["w"] + 1}, samples=10, metrics={})
"""

BUFFER = 10.0  # seconds of packets that the router keeps: a line as people have it at home


def start_big(network: Network, folder: Path) -> str:
    app = write_app(folder / "big", train=TRAIN, job="resources: {grace: 1s}")
    (app / "model.py").write_text(MODEL)
    return network.admin().submit(app).job_id


def wait_for_log(network: Network, job_id: str, words: bytes) -> None:
    for part in network.admin().logs(job_id, site="site-1", follow=True):
        if words in part.data:
            return
    raise AssertionError("the job ended")


def let_it_fill(network: Network, job_id: str, doing: str) -> None:
    """Give the transfer the time to fill whatever fills on the way."""
    threading.Event().wait(5.0)
    [found] = [site for site in network.admin().job(job_id).sites if site.site == "site-1"]
    assert found.progress.startswith(doing)


def abort_in_time(network: Network, job_id: str) -> None:
    admin, began = network.admin(), time.monotonic()
    admin.abort(job_id)
    ended = admin.wait(job_id, timeout=20)
    took = time.monotonic() - began
    assert ended.state == "aborted"
    assert ended.unconfirmed == ()
    assert took < 5, f"{took:.1f} s"


def test_an_abort_overtakes_an_upload_of_10_mb_at_64_kbit(
    links: BadLinks, network: Network, tmp_path: Path
) -> None:
    job_id = start_big(network, tmp_path)
    wait_for_log(network, job_id, b"at work")
    links.slow("site-1", kbit=64, buffer_seconds=BUFFER)
    network.open_gate("site-1")
    let_it_fill(network, job_id, "sending update")
    abort_in_time(network, job_id)


def test_an_abort_overtakes_a_download_of_10_mb_at_64_kbit(
    links: BadLinks, network: Network, tmp_path: Path
) -> None:
    links.slow("site-1", kbit=64, buffer_seconds=BUFFER)
    job_id = start_big(network, tmp_path)
    let_it_fill(network, job_id, "fetching model")
    abort_in_time(network, job_id)
