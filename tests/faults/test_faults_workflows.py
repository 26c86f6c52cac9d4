# SPDX-License-Identifier: Apache-2.0
"""A short sample of the campaign's part `workflows`: scaffold and fedavg_he, in the same network."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from faults import workflows
from faults.checker import check
from faults.history import Expectation
from faults.rig import KINDS, Rig
from faults.workflowapps import APPS
from faults.workflows import Outcome

pytestmark = pytest.mark.network


def app(type_):
    return next(one for one in APPS if one.type == type_)


def test_scaffold_and_encrypted_averages_come_to_the_same_after_kills(tmp_path: Path):
    pytest.importorskip("tenseal")
    chance = random.Random("sample")
    scaffold, encrypted = app("scaffold"), app("fedavg_he")
    with Rig(tmp_path, "workflows") as rig:
        calm = [rig.submit(one.write(tmp_path / one.type, 0.0), one.type) for one in (scaffold, encrypted)]
        assert [rig.wait(job) for job in calm] == ["completed"] * 2
        hit = [
            rig.submit(one.write(tmp_path / f"{one.type}-hit", 0.15), f"{one.type}-hit")
            for one in (scaffold, encrypted)
        ]
        for job in hit:
            rig.expect(job, Expectation(rounds=4, contributors=tuple(rig.sites), quorum=3))
            rig.insist(lambda admin, job=job: next(j for j in admin.watch(job) if j.rounds_done >= 1))
        assert rig.strike("workflow", chance) is not None
        assert rig.strike("worker", chance) is not None
        rig.strike("server", chance)
        assert [rig.wait(job) for job in hit] == ["completed"] * 2
        undisturbed, found = ([Outcome(rig, job) for job in jobs] for jobs in (calm, hit))
        for job, one in zip(hit, found, strict=True):
            rig.note_result(job, one.digest)
        rig.look_until_clean()
        history = rig.history()
    assert found[0].digest == undisturbed[0].digest, found[0].difference(undisturbed[0])
    assert found[1].distance(undisturbed[1]) <= encrypted.blur
    assert [str(one) for one in check(history) if not str(one).startswith("server-slow")] == []


class Told:
    """A rig whose jobs have come to this."""

    def __init__(self, weight, error=1.0):
        from flprov.wire import encode_tensors

        self.files = {"model.safetensors": encode_tensors({"w": np.float32([weight])}), "record.json": b"?"}
        self.error = error

    def take_files(self, _job):
        return dict(self.files)

    def insist(self, _call):
        return [type("Round", (), {"metrics": {"error": self.error}})]


def test_an_outcome_that_differs_by_a_bit_is_found_out():
    one, same, other = Outcome(Told(1.0), "j"), Outcome(Told(1.0), "j"), Outcome(Told(1.0 + 1e-7), "j")
    assert one.digest == same.digest
    assert one.digest != other.digest
    assert other.difference(one) == "model.safetensors"
    assert other.distance(one) == pytest.approx(1.19e-7, rel=0.01)
    assert Outcome(Told(1.0, error=1.5), "j").difference(one) == "metrics of round 1"
    assert Outcome(Told(1.0, error=1.5), "j").distance(one) == 0.5


def test_the_same_seed_kills_the_same_processes_of_the_same_workflows():
    assert workflows.plan(1, 7) == workflows.plan(1, 7) != workflows.plan(1, 8)
    for one, case in workflows.plan(2, 7):
        assert sorted(case.kinds) == sorted([*KINDS, *KINDS]), one.name
