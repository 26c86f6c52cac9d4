# SPDX-License-Identifier: Apache-2.0
"""Would this site run that job? Everything that stands against it at once, and nothing is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from agent_parties import NOW, make_submission, sign_deploy
from agent_rig import FakeGPUs, Rig, make_gpu

from flprov._base import from_document, parse_json
from flprov.jobs import JobSpec, Resources
from flprov.wire import pb
from flprov.wire.documents import GPUProcess, SiteOffer

GIB = 1 << 30
SPEC = JobSpec(name="toy", tasks={"train": "train:train"})


async def ask(rig: Rig, spec: JobSpec = SPEC, *, signer=None, sizes=(0, 0), **changes) -> pb.Probed:
    person = signer or rig.person
    signed = sign_deploy(person, make_submission(person, spec, **changes))
    before = len(rig.reports.of("probed"))
    rig.jobs.probe(
        pb.Probe(
            probe_id="p1",
            submission=signed.submission,
            signature=signed.signature,
            chain=signed.chain,
            app_size=sizes[0],
            model_size=sizes[1],
        )
    )
    return await rig.reports.wait("probed", before + 1)


def said(probed: pb.Probed) -> list[tuple[str, str]]:
    return [(failure.code, failure.message) for failure in probed.refusals]


def offer(probed: pb.Probed) -> SiteOffer:
    return from_document(SiteOffer, parse_json(probed.notes))


async def test_a_job_that_would_run_is_not_run_and_leaves_nothing(rig: Rig):
    rig.gpus.gpus = FakeGPUs(make_gpu(0)).gpus
    probed = await ask(rig, replace(SPEC, resources=Resources(gpus=1, disk=100)), sizes=(10, 1000))
    assert (probed.probe_id, said(probed)) == ("p1", [])
    found = offer(probed)
    assert (found.gpus, found.disk_needed) == (("GPU-0",), 100 + 20 + 2000)
    assert found.cpus >= 1
    assert rig.jobs.leases.all == {}
    assert rig.jobs.ids == []
    assert rig.outcomes("job.accept") == []
    assert (await ask(rig)).refusals == []  # the same submission again is no replay


async def test_everything_that_stands_against_it_is_said_at_once(rig: Rig):
    rig.config.policy.write_text("allow: {organisations: [org-b]}\n")
    gpu = replace(make_gpu(0, total=24 * GIB, used=9 * GIB), used_by=(GPUProcess(pid=4711, memory=9 * GIB),))
    rig.gpus.gpus = (gpu,)
    spec = replace(
        SPEC,
        data=("heart", "lung"),
        needs=("numpy", "no-such-package>=2"),
        resources=Resources(gpus=1, gpu_memory=16 * GIB),
    )
    found = said(await ask(rig, spec))
    assert [code for code, _ in found] == [
        "policy-refused",
        "not-found",
        "not-found",
        "not-found",
        "no-room",
    ]
    text = "\n".join(message for _, message in found)
    for words in ("only org-b", "'heart'", "'lung'", "needs no-such-package>=2, found none", "pid 4711"):
        assert words in text


async def test_packages_are_looked_for_where_jobs_run(rig: Rig, tmp_path):
    rig.config.settings.write_text(f"python: {tmp_path / 'nowhere'}\n")
    [(code, message)] = said(await ask(rig, replace(SPEC, needs=("numpy",))))
    assert (code, "cannot be run" in message) == ("local-error", True)


@pytest.mark.parametrize("changes", [{"made_at": NOW - timedelta(days=9)}, {"sites": ("site-2",)}])
async def test_whoever_may_not_ask_is_told_why_and_nothing_of_the_machine(rig: Rig, changes):
    probed = await ask(rig, **changes)
    assert len(probed.refusals) == 1
    assert probed.notes == b""


async def test_a_stranger_s_signature_is_refused(rig: Rig, strangers):
    probed = await ask(rig, signer=strangers.kit("leo"))
    assert [code for code, _ in said(probed)] == ["identity-refused"]
    assert probed.notes == b""
