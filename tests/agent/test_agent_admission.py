# SPDX-License-Identifier: Apache-2.0
"""Which jobs a site runs: every refusal, by the site's own check of what the person signed."""

from __future__ import annotations

import dataclasses
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from agent_parties import NOW, SITE, make_config, make_submission, sign_deploy

from flprov.agent.admission import Admitted, admit
from flprov.errors import (
    ConfigError,
    ConfinementRefused,
    FlprovError,
    IdentityRefused,
    NoRoom,
    NotFound,
    PermissionRefused,
    PolicyRefused,
    ProtocolError,
    Refused,
)
from flprov.jobs import JobSpec, Resources
from flprov.wire import pb

SPEC = JobSpec(name="toy", tasks={"train": "train:train"})


@pytest.fixture
def leo(parties):
    return parties.kit("leo")


def ask(
    deploy: pb.Deploy, config, *, now=NOW, jobs_here=0, token_job=None, known=False, revoked=()
) -> Admitted:
    return admit(
        deploy,
        config=config,
        now=now,
        jobs_here=jobs_here,
        token_job=token_job,
        known=known,
        people=config.kit.anchors["people"],
        revoked_people=revoked,
    )


def wish(signer, spec: JobSpec = SPEC, *, job_id: str = "j1", **changes) -> pb.Deploy:
    return sign_deploy(signer, make_submission(signer, spec, **changes), job_id=job_id)


# ---- what is let in ----------------------------------------------------------------------------


def test_a_signed_job_that_the_policy_allows_is_admitted(leo, config):
    admitted = ask(wish(leo), config)
    assert admitted.submission.submitted_by == "spiffe://heart.example/person/org-a/lead/leo"
    assert admitted.python == Path(sys.executable)
    assert admitted.datasets == {}
    assert not admitted.unconfined
    assert admitted.tracebacks


def test_it_gets_the_datasets_it_asked_for_and_no_others(parties, leo, tmp_path):
    (tmp_path / "heart").mkdir()
    (tmp_path / "lung").mkdir()
    config = make_config(
        parties.kit(SITE),
        tmp_path / "site",
        settings=f"datasets: {{heart: {tmp_path}/heart, lung: {tmp_path}/lung}}\n",
    )
    admitted = ask(wish(leo, dataclasses.replace(SPEC, data=("heart",))), config)
    assert admitted.datasets == {"heart": tmp_path / "heart"}


def test_it_runs_under_the_interpreter_that_the_site_names(parties, leo, tmp_path):
    config = make_config(parties.kit(SITE), tmp_path / "site", settings="python: /opt/jobs/bin/python\n")
    assert ask(wish(leo), config).python == Path("/opt/jobs/bin/python")


def test_the_site_may_keep_tracebacks_to_itself(parties, leo, tmp_path):
    config = make_config(
        parties.kit(SITE), tmp_path / "site", policy="allow: {people: [leo]}\ntracebacks: false\n"
    )
    assert not ask(wish(leo), config).tracebacks


# ---- who signed --------------------------------------------------------------------------------


def test_bytes_that_were_changed_after_signing_are_refused(leo, config):
    deploy = wish(leo)
    deploy.submission = deploy.submission.replace(b'"name":"toy"', b'"name":"spy"')
    with pytest.raises(IdentityRefused):
        ask(deploy, config)


def test_a_signature_by_another_key_than_the_certificate_s_is_refused(parties, leo, config):
    deploy = wish(leo)
    deploy.signature = wish(parties.kit("ada")).signature
    with pytest.raises(IdentityRefused):
        ask(deploy, config)


@pytest.mark.parametrize("field", ["signature", "chain", "submission"])
@pytest.mark.parametrize("value", [b"", b"\x00" * 40, b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_rubbish_instead_of_a_signed_submission_is_refused(leo, config, field, value):
    deploy = wish(leo)
    setattr(deploy, field, value)
    with pytest.raises(IdentityRefused):
        ask(deploy, config)


def test_a_person_of_a_project_with_the_same_names_is_refused(strangers, config):
    with pytest.raises(IdentityRefused):
        ask(wish(strangers.kit("leo"), project_id=config.kit.project_id), config)


@pytest.mark.parametrize("name", ["server", SITE])
def test_a_submission_signed_by_no_person_is_refused(parties, config, name):
    with pytest.raises(IdentityRefused):
        ask(wish(parties.kit(name)), config)


def test_a_certificate_that_has_expired_signs_nothing(leo, config):
    with pytest.raises(IdentityRefused, match="expired"):
        ask(wish(leo), config, now=leo.not_after + timedelta(seconds=1))


def test_a_wish_in_another_person_s_name_is_refused(parties, leo, config):
    deploy = wish(leo, submitted_by=parties.kit("ada").identity.uri)
    with pytest.raises(IdentityRefused, match=r"names .*/ada, but .*/leo signed it"):
        ask(deploy, config)


@pytest.mark.parametrize("name", ["mia", "obi", "olga"])
def test_a_role_that_may_not_submit_is_refused_whatever_the_server_says(parties, config, name):
    with pytest.raises(PermissionRefused, match="may not submit"):
        ask(wish(parties.kit(name)), config)


# ---- what for ----------------------------------------------------------------------------------


def test_a_submission_for_another_project_is_refused(leo, config):
    with pytest.raises(PermissionRefused, match="another project"):
        ask(wish(leo, project_id="0" * 36), config)


def test_a_submission_for_other_sites_is_refused(leo, config):
    with pytest.raises(PermissionRefused, match="not for site-1"):
        ask(wish(leo, sites=["site-2"]), config)


def test_a_submission_that_made_another_job_is_a_replay(leo, config):
    with pytest.raises(PermissionRefused, match=r"j0.*replay"):
        ask(wish(leo), config, token_job="j0")


def test_the_same_job_may_come_again(leo, config):
    assert ask(wish(leo), config, token_job="j1", known=True)


def test_a_submission_from_before_its_last_day_is_refused(leo, config):
    with pytest.raises(Refused, match="valid until"):
        ask(wish(leo, life=timedelta(days=1)), config, now=NOW + timedelta(days=2))


def test_a_job_that_was_accepted_in_time_may_return_later(leo, config):
    later = NOW + timedelta(days=2)
    assert ask(wish(leo, life=timedelta(days=1)), config, now=later, token_job="j1", known=True)


def test_a_submission_from_the_future_is_refused(leo, config):
    with pytest.raises(Refused, match="made at"):
        ask(wish(leo, made_at=NOW + timedelta(hours=1)), config)


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "x" * 41, "a\x00b", "a\nb", "a b", "-rf", "é"]
)
def test_a_job_id_that_is_no_plain_name_of_a_folder_is_refused(leo, config, job_id):
    with pytest.raises(ProtocolError, match="folder"):
        ask(wish(leo, job_id=job_id), config)


# ---- the site's policy -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (None, "no policy.yml"),
        ("{}", "nobody"),
        ("allow: {organisations: [org-b]}", "only org-b"),
        ("allow: {people: [ada]}", "only ada"),
        ("allow: {people: [leo]}\nceilings: {memory: 1MiB}", "memory"),
        ("allow: {people: [leo]}\nceilings: {gpus: 0}", "1 gpus"),
    ],
)
def test_what_the_policy_does_not_allow_is_refused(parties, leo, tmp_path, policy, said):
    config = make_config(parties.kit(SITE), tmp_path / "site", policy=policy)
    spec = dataclasses.replace(SPEC, resources=Resources(gpus=1))
    with pytest.raises(PolicyRefused, match=said):
        ask(wish(leo, spec), config, jobs_here=1)


def test_as_many_jobs_as_may_run_are_no_refusal_for_ever(parties, leo, tmp_path):
    config = make_config(
        parties.kit(SITE), tmp_path / "site", policy="allow: {people: [leo]}\nceilings: {jobs: 1}"
    )
    ask(wish(leo, SPEC), config, jobs_here=0)
    with pytest.raises(NoRoom, match="room for 1 jobs"):
        ask(wish(leo, SPEC), config, jobs_here=1)


def test_a_policy_with_mistakes_allows_nothing(parties, leo, tmp_path):
    config = make_config(parties.kit(SITE), tmp_path / "site", policy="alow: {people: [leo]}")
    with pytest.raises(ConfigError, match="alow"):
        ask(wish(leo), config)


def test_the_policy_is_read_again_for_each_job(leo, config):
    assert ask(wish(leo), config)
    config.policy.write_text("allow: {organisations: [org-b]}\n")
    with pytest.raises(PolicyRefused):
        ask(wish(leo), config)


# ---- datasets and confinement ------------------------------------------------------------------


def with_dataset(parties, tmp_path: Path, path: Path | str):
    return make_config(parties.kit(SITE), tmp_path / "site", settings=f"datasets: {{heart: {path}}}\n")


NEEDS_HEART = dataclasses.replace(SPEC, data=("heart",))


def test_a_dataset_that_the_site_does_not_name_is_refused_with_what_to_do(leo, config):
    with pytest.raises(NotFound, match="'heart'") as refused:
        ask(wish(leo, NEEDS_HEART), config)
    assert "site.yml" in (refused.value.hint or "")


@pytest.mark.parametrize("name", ["gone", pytest.param("g" * 300, id="cannot be looked at")])
def test_a_dataset_that_is_not_there_is_refused_without_its_path(parties, leo, tmp_path, name):
    config = with_dataset(parties, tmp_path, tmp_path / name)
    with pytest.raises(NotFound, match="does not exist") as refused:
        ask(wish(leo, NEEDS_HEART), config)
    assert str(tmp_path) not in str(refused.value)


def test_a_dataset_inside_the_kit_is_refused(parties, leo, tmp_path):
    config = with_dataset(parties, tmp_path, parties.kit(SITE).folder / "identity")
    with pytest.raises(ConfinementRefused, match="kit or the state"):
        ask(wish(leo, NEEDS_HEART), config)


def test_a_dataset_inside_the_agent_s_state_is_refused(parties, leo, tmp_path):
    config = with_dataset(parties, tmp_path, tmp_path / "site" / "state")
    with pytest.raises(ConfinementRefused, match="kit or the state"):
        ask(wish(leo, NEEDS_HEART), config)


def test_a_dataset_that_is_a_link_into_the_kit_is_refused(parties, leo, tmp_path):
    (tmp_path / "innocent").symlink_to(parties.kit(SITE).folder)
    config = with_dataset(parties, tmp_path, tmp_path / "innocent" / "kit.yml")
    with pytest.raises(ConfinementRefused, match="kit or the state"):
        ask(wish(leo, NEEDS_HEART), config)


def test_no_job_runs_where_it_cannot_be_confined(leo, config, monkeypatch):
    monkeypatch.setattr("flprov.agent.admission.confinement_method", lambda: "none")
    with pytest.raises(ConfinementRefused, match="cannot be confined") as refused:
        ask(wish(leo), config)
    assert "unconfined: true" in (refused.value.hint or "")


def test_the_policy_may_waive_confinement(parties, leo, tmp_path, monkeypatch):
    monkeypatch.setattr("flprov.agent.admission.confinement_method", lambda: "none")
    config = make_config(
        parties.kit(SITE), tmp_path / "site", policy="allow: {people: [leo]}\nunconfined: true\n"
    )
    assert ask(wish(leo), config).unconfined


def test_every_refusal_is_one_of_ours(parties, config):
    for name in ("server", "mia", SITE):
        with pytest.raises(FlprovError) as refused:
            ask(wish(parties.kit(name)), config)
        assert refused.value.code != "flprov-error"
