# SPDX-License-Identifier: Apache-2.0
"""Submissions: one spelling, strictly read, refused when stale or altered."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flprov.errors import ConfigError, ProtocolError, Refused
from flprov.jobs import (
    JobSpec,
    Membership,
    Origin,
    Resources,
    Submission,
    Workflow,
    decode_submission,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
SUBMISSION = Submission(
    project_id="p-1",
    app="ab" * 32,
    spec=JobSpec(name="heart", tasks={"train": "train.py"}, args={"lr": 0.01, "deep": [1, None, "ö"]}),
    sites=("hospital-a", "hospital-b"),
    token="nightly-3",
    submitted_by="spiffe://example.org/person/org/lead/ana",
    made_at=NOW,
    not_after=NOW + timedelta(days=7),
)


def altered(change) -> bytes:
    document = json.loads(SUBMISSION.encode())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_it_comes_back_as_it_was():
    assert decode_submission(SUBMISSION.encode()) == SUBMISSION


def test_bytes_are_canonical_and_never_change():
    """Signatures are over these bytes; another spelling would void every stored one."""
    assert SUBMISSION.encode().decode() == (
        '{"app":"' + "ab" * 32 + '","flprov":1,"made_at":"2026-01-31T12:00:00.000Z",'
        '"not_after":"2026-02-07T12:00:00.000Z","project_id":"p-1","sites":["hospital-a","hospital-b"],'
        '"spec":{"args":{"deep":[1,null,"ö"],"lr":0.01},"data":[],'
        '"filters":{"result_server":[],"result_site":[],"task_server":[],"task_site":[]},'
        '"model":null,"name":"heart","needs":[],'
        '"resources":{"cpus":1,"gpu_memory":0,"gpus":0,"grace_seconds":1.0,"memory":1073741824},'
        '"sites":{"absence_seconds":600.0,"min":null,"required":[]},"tasks":{"train":"train.py"},'
        '"workflow":{"entry":null,"options":{},"rounds":5,"type":"fedavg"}},'
        '"submitted_by":"spiffe://example.org/person/org/lead/ana","token":"nightly-3"}'
    )


def test_order_of_making_does_not_matter():
    other = replace(SUBMISSION, spec=replace(SUBMISSION.spec, args={"deep": [1, None, "ö"], "lr": 0.01}))
    assert other.encode() == SUBMISSION.encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(extra=1), "nobody asked for: 'extra'"),
        (lambda d: d["spec"].update(unconfined=True), "nobody asked for: 'spec.unconfined'"),
        (lambda d: d["spec"]["resources"].update(tpus=8), "nobody asked for: 'spec.resources.tpus'"),
        (lambda d: d.pop("token"), "Submission.token is missing"),
        (lambda d: d["spec"].pop("model"), "not in canonical form"),
        (lambda d: d.update(flprov=2), "its format is '2', this flprov reads 1"),
        (lambda d: d.update(flprov=True), "its format is"),
        (lambda d: d.pop("flprov"), "its format is"),
        (lambda d: d.update(token=""), "token cannot be ''"),
        (lambda d: d.update(token="a b"), "token cannot be 'a b'"),
        (lambda d: d.update(token="x" * 129), "token cannot be"),
        (lambda d: d.update(token=7), "expected str, found int"),
        (lambda d: d.update(app="../../etc"), "app cannot be '../../etc'"),
        (lambda d: d.update(app="AB" * 32), "app cannot be"),
        (lambda d: d.update(submitted_by="ana"), "submitted_by cannot be 'ana'"),
        (lambda d: d.update(project_id=""), "project_id cannot be ''"),
        (lambda d: d.update(sites=[]), "1 to 10000 sites, not on 0"),
        (lambda d: d.update(sites=["a", "a"]), "named twice"),
        (lambda d: d.update(sites=["../a"]), "'../a' is not a site's name"),
        (lambda d: d.update(sites="hospital-a"), "expected list"),
        (lambda d: d["spec"]["sites"].update(min=3), "sites.min is 3, but the job is sent to 2 only"),
        (lambda d: d["spec"]["sites"].update(required=["c"]), "sites.required names c"),
        (lambda d: d["spec"]["tasks"].update(train="../x.py"), "climbs out of its folder"),
        (lambda d: d["spec"]["workflow"].update(rounds=-1), "'workflow.rounds' must be between"),
        (lambda d: d["spec"]["workflow"].update(rounds=10**400), "'workflow.rounds' must be between"),
        (lambda d: d["spec"].update(name="х"), "'name' must be lower-case"),
        (lambda d: d.update(not_after="2026-01-31T12:00:00.000Z"), "not_after is not after made_at"),
        (lambda d: d.update(not_after="2026-02-07T12:00:00.000"), "time without a zone"),
        (lambda d: d.update(not_after="2026-02-07T13:00:00.000+01:00"), "not in canonical form"),
        (lambda d: d.update(not_after="0001-01-01T00:00:00.000+23:59"), "cannot be read"),
        (lambda d: d.update(not_after="soon"), "cannot be read"),
    ],
)
def test_anything_but_what_we_would_have_written_is_refused(change, words):
    with pytest.raises(ProtocolError) as caught:
        decode_submission(altered(change))
    assert words in str(caught.value)


def test_same_meaning_in_another_spelling_is_refused():
    data = SUBMISSION.encode()
    for other in (
        data + b"\n",
        b" " + data,
        data.replace(b",", b", ", 1),
        data.replace("ö".encode(), b"\\u00f6"),
    ):
        assert json.loads(other) == json.loads(data)
        with pytest.raises(ProtocolError, match="not in canonical form"):
            decode_submission(other)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b"\xff\xfe",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"flprov":1,"flprov":1}',
        b'{"flprov":NaN}',
        b'{"flprov":1e999}',
        b'{"flprov":' + b"9" * 10_000 + b"}",
        b" " * (2 << 20),
    ],
)
def test_garbage_is_refused(data):
    with pytest.raises(ProtocolError):
        decode_submission(data)


def test_deep_arguments_are_refused_not_crashed_on():
    deep = b"[" * 900 + b"]" * 900
    with pytest.raises(ProtocolError):
        decode_submission(SUBMISSION.encode().replace(b'[1,null,"\xc3\xb6"]', deep))


def test_duplicate_key_that_hides_another_is_refused():
    data = SUBMISSION.encode().replace(b'"token":', b'"token":"other","token":')
    with pytest.raises(ProtocolError, match="stands twice"):
        decode_submission(data)


def test_what_would_be_refused_is_not_encoded():
    for wrong in (
        replace(SUBMISSION, token=""),
        replace(SUBMISSION, sites=()),
        replace(SUBMISSION, not_after=NOW),
        replace(SUBMISSION, spec=replace(SUBMISSION.spec, sites=Membership(min=5))),
        replace(SUBMISSION, spec=replace(SUBMISSION.spec, workflow=Workflow(rounds=0))),
        replace(SUBMISSION, spec=replace(SUBMISSION.spec, args={f"a{n}": "x" * 4096 for n in range(256)})),
    ):
        with pytest.raises(ConfigError):
            wrong.encode()


def test_stale_submission_is_refused_when_replayed():
    SUBMISSION.verify_fresh(NOW)
    SUBMISSION.verify_fresh(SUBMISSION.not_after)
    with pytest.raises(Refused, match=r"was valid until 2026-02-07T12:00:00\.000Z"):
        SUBMISSION.verify_fresh(SUBMISSION.not_after + timedelta(milliseconds=1))


def test_submission_from_the_future_is_refused_beyond_five_minutes():
    SUBMISSION.verify_fresh(NOW - timedelta(minutes=5))
    with pytest.raises(Refused, match="was made at"):
        SUBMISSION.verify_fresh(NOW - timedelta(minutes=6))


# ---- what came later ---------------------------------------------------------------------------

LATER = replace(
    SUBMISSION,
    spec=replace(
        SUBMISSION.spec,
        priority=-3,
        resources=Resources(disk=7),
        sites=Membership(late="refuse"),
    ),
    origin=Origin(job_id="0k3v2m9q1abc", round=2),
)


def test_later_fields_are_signed_when_they_say_something():
    data = json.loads(LATER.encode())
    assert data["origin"] == {"job_id": "0k3v2m9q1abc", "round": 2}
    assert (data["spec"]["priority"], data["spec"]["resources"]["disk"]) == (-3, 7)
    assert data["spec"]["sites"]["late"] == "refuse"
    assert decode_submission(LATER.encode()) == LATER


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(origin=None),
        lambda d: d["spec"].update(priority=0),
        lambda d: d["spec"]["resources"].update(disk=0),
        lambda d: d["spec"]["sites"].update(late="take"),
    ],
)
def test_later_fields_that_say_nothing_have_one_spelling(change):
    with pytest.raises(ProtocolError, match="has a field that nobody asked for"):
        decode_submission(altered(change))


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin(job_id="../x"), "origin.job_id cannot be"),
        (Origin(job_id=""), "origin.job_id cannot be"),
        (Origin(job_id="j", round=-1), "origin.round is -1"),
        (Origin(job_id="j", round=5), "would begin with 5 rounds done and has 5 in all: set rounds to more"),
        (Origin(job_id="j", round=2**63), "would begin with"),
    ],
)
def test_origin_that_makes_no_sense_is_refused(origin, words):
    with pytest.raises(ConfigError, match=words):
        replace(SUBMISSION, origin=origin).encode()
