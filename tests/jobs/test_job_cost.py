# SPDX-License-Identifier: Apache-2.0
"""What a job costs beyond its model, said before it is submitted; and what it needs besides job.yml."""

import numpy as np
import pytest

from flprov.jobs import JobSpec, Workflow, beside_size, describe_cost, job_needs, state_size, update_size
from flprov.jobs.cost import FRESH_BYTES, SUM_BYTES
from flprov.messages import Update
from flprov.sdk import Answer, Selection, Sites, State, build_controller, encode_state
from flprov.sdk.he import ckks

CLEAR = JobSpec(name="x", tasks={"train": "train.py"}, needs=("torch>=2.4",))
ENCRYPTED = JobSpec(name="x", tasks={"train": "train.py"}, workflow=Workflow(type="fedavg_he"))


def test_a_workflow_in_clear_costs_nothing_worth_a_word():
    assert describe_cost(CLEAR, 40_000_000, 8) == ""
    assert update_size(CLEAR, 10) == state_size(CLEAR, 10, 3) == 10
    assert beside_size(CLEAR, 10, 3) == 0
    assert job_needs(CLEAR) == ("torch>=2.4",)


def job(type_, best=None, **options):
    return JobSpec(
        name="x", tasks={"train": "train.py"}, workflow=Workflow(type=type_, best=best, options=options)
    )


@pytest.mark.parametrize(
    ("spec", "models"),
    [
        (job("fedavg", best="auc"), 2),
        (job("fedopt"), 2),
        (job("fedopt", momentum=0), 1),
        (job("fedopt", momentum=0.0, best="auc"), 2),
        (job("fedopt", optimizer="adam"), 3),
        (job("fedopt", optimizer="yogi", best="auc"), 4),
        (job("scaffold"), 9),
        (job("scaffold", best="auc"), 10),
        (job("cross_site_evaluation"), 8),
    ],
    ids=lambda value: getattr(value, "workflow", value),
)
def test_what_a_workflow_remembers_counts_in_every_checkpoint(spec, models):
    assert state_size(spec, 1000, 7) == models * 1000


def test_the_state_of_a_real_run_is_as_large_as_the_estimate():
    for spec in (job("scaffold", best="loss"), job("fedopt", optimizer="adam"), job("fedopt")):
        first = {"w": np.zeros(50_000, np.float32)}
        data = run_workflow(
            build_controller(spec.workflow.type, None, spec.workflow.options), first, spec.workflow.best
        )
        assert len(data) == pytest.approx(state_size(spec, 200_000, 7), rel=0.01)


def run_workflow(controller, model, best):
    """What is saved after one round at seven sites."""

    class Port:
        def ask(self, ask):
            self.given = [
                Answer(
                    task_id=ask.task_id,
                    site=site,
                    update=Update(
                        site=site, params=ask.model, samples=1, metrics={"loss": 1.0, "step_sum": 1.0}
                    ),
                    last=site == ask.to[-1],
                )
                for site in ask.to
            ]

        def wait(self, _tasks):
            return self.given.pop(0)

        def save(self, state):
            self.saved = encode_state(state)
            return state

    port = Port()
    sites = Sites(
        port, names=list("abcdefg"), tasks=["train"], total=1, selection=Selection(best=best, mode="min")
    )
    controller.run(sites, State(model=model))
    return port.saved


def test_what_scaffold_sends_beside_the_model_counts_for_each_site():
    assert beside_size(job("scaffold"), 1000, 7) == 7000


def test_encryption_is_told_in_bytes_and_seconds():
    said = describe_cost(ENCRYPTED, 40_000_000, 8)
    assert "about 10,000,000 numbers: each site sends 77.2 MiB and gets 153.5 MiB in a round" in said
    assert "(in clear 38.1 MiB each)" in said
    assert "1.6 s to encrypt and 0.64 s to decrypt; the server takes about 6.7 s to add" in said


def test_of_a_model_that_code_makes_the_price_of_a_million_numbers_is_told():
    assert "a model that code makes; for each million numbers: each site sends 7.7 MiB" in describe_cost(
        ENCRYPTED, 0, 2
    )


def test_what_encryption_needs_is_asked_of_the_sites_before_the_job_starts():
    assert job_needs(ENCRYPTED) == ("tenseal>=0.3.14",)


@pytest.mark.parametrize(("told", "true"), [(FRESH_BYTES, ckks.FRESH_BYTES), (SUM_BYTES, ckks.SUM_BYTES)])
def test_the_bytes_that_are_told_are_those_of_the_ciphertexts(told, true):
    assert true / ckks.PIECE <= told < 1.01 * true / ckks.PIECE
