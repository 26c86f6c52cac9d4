# SPDX-License-Identifier: Apache-2.0
"""GPUs of a site: one goes to one job at a time, and a refusal says what stands in the way."""

from __future__ import annotations

import pytest
from agent_rig import make_gpu

from flprov.agent.leases import GPULeases
from flprov.errors import PolicyRefused

GIB = 1 << 30


@pytest.fixture
def leases():
    return GPULeases()


def test_a_job_that_asks_for_none_gets_none(leases):
    assert leases.lease("j1", [make_gpu(0)], count=0, memory=0) == ()
    assert leases.holders("GPU-0") == ()


def test_the_smallest_that_is_large_enough_is_taken(leases):
    gpus = [make_gpu(0, total=80 * GIB), make_gpu(1, total=4 * GIB), make_gpu(2, total=24 * GIB)]
    assert leases.lease("j1", gpus, count=1, memory=16 * GIB) == ("GPU-2",)


def test_memory_in_use_does_not_count(leases):
    gpus = [make_gpu(0, total=8 * GIB, used=6 * GIB), make_gpu(1, total=8 * GIB)]
    assert leases.lease("j1", gpus, count=1, memory=4 * GIB) == ("GPU-1",)


def test_two_jobs_never_share_one(leases):
    gpus = [make_gpu(0), make_gpu(1)]
    first = leases.lease("j1", gpus, count=1, memory=0)
    second = leases.lease("j2", gpus, count=1, memory=0)
    assert {*first, *second} == {"GPU-0", "GPU-1"}
    assert leases.holders(first[0]) == ("j1",)


def test_asking_again_gives_the_same(leases):
    gpus = [make_gpu(0), make_gpu(1)]
    assert leases.lease("j1", gpus, count=1, memory=0) == leases.lease("j1", gpus, count=1, memory=0)
    assert leases.lease("j2", gpus, count=1, memory=0)


def test_it_is_free_once_the_job_is_gone(leases):
    gpu = make_gpu(0)
    leases.lease("j1", [gpu], count=1, memory=0)
    leases.release("j1")
    leases.release("j1")
    assert leases.lease("j2", [gpu], count=1, memory=0) == ("GPU-0",)


def test_a_refusal_takes_none_of_those_that_would_have_fitted(leases):
    gpus = [make_gpu(0)]
    with pytest.raises(PolicyRefused):
        leases.lease("j1", gpus, count=2, memory=0)
    assert leases.lease("j2", gpus, count=1, memory=0) == ("GPU-0",)


def test_a_refusal_says_who_has_it_and_what_fills_it(leases):
    gpus = [make_gpu(0), make_gpu(1, total=8 * GIB, used=7 * GIB, processes=(41, 42))]
    leases.lease("j0", gpus[:1], count=1, memory=0)
    with pytest.raises(PolicyRefused) as refused:
        leases.lease("j1", gpus, count=1, memory=4 * GIB)
    assert str(refused.value) == (
        "needs 1 x 4 GiB free; gpu 0 is leased to job j0; gpu 1 has 1.0 GiB free (pid 41, pid 42)"
    )


@pytest.mark.parametrize(("note", "said"), [("no NVIDIA driver", "none (no NVIDIA driver)"), ("", "none")])
def test_a_site_without_gpus_says_why(leases, note, said):
    with pytest.raises(PolicyRefused, match="needs 1 GPUs; this site has") as refused:
        leases.lease("j1", [], count=1, memory=0, note=note)
    assert str(refused.value).endswith(said)
