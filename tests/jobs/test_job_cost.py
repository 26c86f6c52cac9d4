# SPDX-License-Identifier: Apache-2.0
"""What a job costs beyond its model, said before it is submitted; and what it needs besides job.yml."""

import pytest

from flprov.jobs import JobSpec, Workflow, describe_cost, job_needs, state_size, update_size
from flprov.jobs.cost import FRESH_BYTES, SUM_BYTES
from flprov.sdk.he import ckks

CLEAR = JobSpec(name="x", tasks={"train": "train.py"}, needs=("torch>=2.4",))
ENCRYPTED = JobSpec(name="x", tasks={"train": "train.py"}, workflow=Workflow(type="fedavg_he"))


def test_a_workflow_in_clear_costs_nothing_worth_a_word():
    assert describe_cost(CLEAR, 40_000_000, 8) == ""
    assert update_size(CLEAR, 10) == state_size(CLEAR, 10) == 10
    assert job_needs(CLEAR) == ("torch>=2.4",)


def test_encryption_is_told_in_bytes_and_seconds():
    said = describe_cost(ENCRYPTED, 40_000_000, 8)
    assert "about 10,000,000 numbers: each site sends 77.2 MiB and gets 153.5 MiB in a round" in said
    assert "(in clear 38.1 MiB each)" in said
    assert "2 s to encrypt and 1 s to decrypt; the server takes about 8 s to add" in said


def test_of_a_model_that_code_makes_the_price_of_a_million_numbers_is_told():
    assert "a model that code makes; for each million numbers: each site sends 7.7 MiB" in describe_cost(
        ENCRYPTED, 0, 2
    )


def test_what_encryption_needs_is_asked_of_the_sites_before_the_job_starts():
    assert job_needs(ENCRYPTED) == ("tenseal>=0.3.14",)


@pytest.mark.parametrize(("told", "true"), [(FRESH_BYTES, ckks.FRESH_BYTES), (SUM_BYTES, ckks.SUM_BYTES)])
def test_the_bytes_that_are_told_are_those_of_the_ciphertexts(told, true):
    assert true / ckks.PIECE <= told < 1.01 * true / ckks.PIECE
