# SPDX-License-Identifier: Apache-2.0
"""Generated files are current: the JSON schemas and the protobuf module."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import schemas
from house_tree import ROOT
from packaging.requirements import Requirement

from flprov._base import to_document
from flprov.poc import DownReport, NetworkState, PartyState, UpReport
from flprov.wire import documents as doc

WIRE = ROOT / "flprov" / "wire"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SPACE = doc.Space(total=2, available=1)
GPU = doc.GPU(
    index=0,
    uuid="GPU-1",
    name="A100",
    driver="550",
    memory_total=80,
    memory_used=1,
    utilization=None,
    temperature=40.5,
    processes=(7,),
)
SITE = doc.SiteDocument(
    name="hospital-a",
    org="org-a",
    state="connected",
    ladder=(doc.Rung(name="enrolled", ok=True, since=None), doc.Rung(name="connected", ok=True, since=NOW)),
    gpus=(GPU,),
    gpu_note="",
    cpu=doc.CPU(count=2, load=0.5, percent=3),
    memory=SPACE,
    disk=None,
    jobs=("j1",),
    last_seen=NOW,
    cert_not_after=NOW,
    version="0.1.0",
)
SERVER = doc.ServerDocument(
    name="server",
    project="heart-study",
    trust_domain="heart-study.example",
    version="0.1.0",
    protocol=1,
    started_at=NOW,
    cert_not_after=NOW,
    listen="0.0.0.0:8443",
    jobs_running=1,
    jobs_queued=0,
    log_index=12,
)
CONTRIBUTOR = doc.Contributor(site="a", samples=3, weight=3.0, bytes=9, seconds=0.1, metrics={"loss": 0.5})
ROUND = doc.RoundDocument(
    round=0,
    started_at=NOW,
    finished_at=None,
    contributors=(CONTRIBUTOR,),
    absent=(doc.Missing(site="b", reason="gone"),),
    metrics={"loss": 1},
)
JOB = doc.JobDocument(
    id="j1",
    name="first",
    app="ab" * 32,
    state="running",
    reason="",
    submitted_at=NOW,
    started_at=NOW,
    finished_at=None,
    submitted_by="spiffe://x/person/org-a/lead/bob",
    sites=(
        doc.JobSiteDocument(
            site="a",
            state="training",
            doing="fetching model",
            bytes_done=1,
            bytes_total=9,
            at=NOW,
            freed=("gpu 1a",),
        ),
    ),
    rounds=(ROUND,),
    origin=doc.JobOrigin(job_id="j0", round=2),
    contributions=(doc.Contribution(site="a", rounds=1, samples=3, missed=(2,), reasons=("gone",)),),
)
APP = doc.AppDocument(digest="ab" * 32, name="first", size=3, uploaded_at=NOW, uploaded_by="x", files=("a",))
CAUSE = doc.Cause(at=None, party="hospital-a", code="job-failed", message="it failed")
PLAN = doc.PlanDocument(
    project="heart-study",
    project_id=None,
    workspace="/w",
    changes=True,
    unfinished=False,
    authority=doc.PlannedAuthority(change="new", root_fingerprint=None, not_after=NOW),
    parties=(
        doc.PlannedParty(
            name="hospital-a",
            kind="site",
            org="org-a",
            change="changed",
            reason="endpoints: a:1 -> a:2",
            details=("endpoints: a:1 -> a:2",),
            files=("kit.yml",),
            folder="/w/kits/hospital-a",
        ),
    ),
    unchanged=4,
    live=doc.LivePlan(
        asked=True,
        version=1,
        differences=(
            doc.LiveDifference(
                subject="hospital-c", kind="site", difference="missing", text="it is not there", action="add"
            ),
        ),
    ),
)
HOLDER = doc.TrustHolder(
    name="hospital-a",
    kind="site",
    org="org-a",
    identity="spiffe://heart.example/site/org-a/hospital-a",
    version=1,
    ca="ab" * 20,
    not_after=NOW,
)
CA = doc.CADocument(
    project="heart-study",
    project_id="u",
    trust_domain="heart.example",
    workspace="/w",
    encrypted=False,
    phase="steady",
    version=1,
    root_fingerprint="SHA256:AA",
    authorities=(
        doc.AuthorityDocument(
            unit="root", state="active", fingerprint="SHA256:AA", key_id="ab" * 20, not_after=NOW
        ),
    ),
    revoked_people=1,
)
KIT = doc.KitDocument(
    name="alice",
    kind="person",
    org="org-a",
    role="lead",
    identity="spiffe://x/person/org-a/lead/alice",
    project="heart-study",
    project_id="1b4e",
    trust_domain="x",
    server="server",
    endpoints=("a:1",),
    listen=None,
    cert_not_after=NOW,
    made_at=NOW,
    manifest="ab" * 32,
    root_fingerprint="SHA256:AB",
    folder="/w/kits/alice",
)
PROBLEM = doc.Problem(code="kit-refused", message="start.sh is missing", hint=None)
DELIVERY = doc.KitDelivery(
    kit="hospital-a",
    folder="/w/kits/hospital-a",
    user="flprov",
    host="gpu1",
    port=22,
    path=None,
    outcome="failed",
    service=None,
    bytes_sent=0,
    files_kept=0,
    seconds=0.1,
    note="",
    error=PROBLEM,
)
PROVISION = doc.ProvisionDocument(
    project="heart-study",
    project_id="1b4e",
    workspace="/w",
    root_fingerprint="SHA256:AB",
    ca_created=True,
    ca_adopted=False,
    ca_encrypted=False,
    ca_not_after=NOW,
    endpoints=("a:1",),
    kits=(
        doc.ProvisionedKit(
            name="alice",
            kind="person",
            org="org-a",
            outcome="created",
            reason="",
            folder="/w/kits/alice",
            not_after=NOW,
        ),
    ),
    removed=(doc.RemovedKit(name="bob", kind="person", folder=None, not_after=NOW),),
)
PARTY = PartyState(name="server", kind="server", state="serving", pid=None, kit="/k", log="/l")
UP = UpReport(
    folder="/p",
    project="poc",
    endpoint="localhost:1",
    admin_kit="/p/k",
    started=("server",),
    ready_after=1.5,
    created=True,
    written=(),
    parties=(PARTY,),
)
INVITE = doc.InviteDocument(
    id="0123456789abcdef",
    site="hospital-a",
    org="org-a",
    state="used",
    approval=True,
    created_at=NOW,
    created_by="spiffe://x/person/org-a/project_admin/alice",
    not_after=NOW,
    fingerprint="SHA256:AB",
    came_at=NOW,
    used_at=NOW,
    serial="ab",
)
EVENT = doc.EventDocument(
    index=7,
    at=NOW,
    who="server",
    what="job.submit",
    object="j1",
    outcome="ok",
    reason="",
    data={"rounds": 3, "sites": ["hospital-a"]},
)
RECEIPT = doc.ReceiptDocument(
    site="hospital-a",
    identity="spiffe://heart.example/site/org-a/hospital-a",
    index=7,
    digest="ab" * 32,
    at=NOW,
    signature="30",
    chain="PEM",
)

SAMPLES: dict[str, object] = {
    "drain": doc.DrainDocument(
        name="a",
        kind="site",
        changed=True,
        drained="drained by ada since 12:03",
        safe_to_stop=False,
        safe_when="when job j1 (round 1 of 2) has ended there",
        jobs=("j1",),
    ),
    "site-order": doc.SiteOrderDocument(
        name="a", order="stop", state="waiting", text="a stops when ...", jobs=("j1",)
    ),
    "backup": doc.BackupDocument(
        file="/b.tar",
        bytes=9,
        project="heart",
        server="server",
        log_index=7,
        made_at=NOW,
        jobs=1,
        blobs=2,
        running=True,
        keys=("own/key.pem",),
        missing=("ab" * 32,),
    ),
    "restore": doc.RestoreDocument(
        state="/state",
        moved_aside="/state.replaced-1",
        log_index=7,
        made_at=NOW,
        bytes=9,
        check=("flprov site ls",),
        forgotten=("site.lock a by ada",),
        denials=1,
    ),
    "clean": doc.CleanDocument(
        dry_run=True,
        jobs=(doc.CleanedJob(id="j1", name="heart", state="failed", finished_at=NOW),),
        checkpoints=1,
        blobs=2,
        uploads=3,
        bytes=4,
    ),
    "event": EVENT,
    "events": doc.EventListDocument(events=(EVENT,), next=8),
    "audit": doc.AuditListDocument(
        rows=(doc.AuditRowDocument(**vars(EVENT), previous="00" * 32, digest="ab" * 32),), head=7
    ),
    "audit-verdict": doc.AuditVerdictDocument(
        source="server",
        ok=False,
        rows=7,
        head=7,
        digest="ab" * 32,
        first_bad=7,
        problem="row 7 was rewritten",
        witnesses=(
            doc.WitnessVerdict(
                site="hospital-a",
                index=7,
                at=NOW,
                vouched="ab" * 32,
                found="",
                verdict="missing",
                text="gone",
            ),
        ),
        agreed=3,
        notes=("a note",),
    ),
    "audit-export": doc.AuditExportDocument(
        file="audit.jsonl", rows=7, added=2, head=7, digest="ab" * 32, bytes=2000
    ),
    "witnesses": doc.WitnessListDocument(
        project_id="p1",
        head=9,
        digest="cd" * 32,
        receipts=(RECEIPT,),
        disputes=(doc.DisputeDocument(receipt=RECEIPT, found="", noticed_at=NOW, remark="restored"),),
    ),
    "invite": INVITE,
    "invite-create": doc.NewInviteDocument(line="flprov1:x", invite=INVITE, site_added=True, replaced=()),
    "invite-issue": doc.InviteIssueDocument(invite=INVITE, certificate="PEM"),
    "invite-list": doc.InviteListDocument(invites=(INVITE,)),
    "join": doc.JoinDocument(
        site="hospital-a",
        org="org-a",
        project="heart",
        kit="/srv/flprov/hospital-a",
        moved_aside=None,
        server="server",
        endpoints=("fl.example:8443",),
        cert_not_after=NOW,
        fingerprint="SHA256:AB",
        root_fingerprint="SHA256:CD",
    ),
    "status": doc.StatusDocument(server=SERVER, sites=(SITE,)),
    "server": SERVER,
    "site": SITE,
    "site-list": doc.SiteListDocument(sites=(SITE,)),
    "job": JOB,
    "job-list": doc.JobListDocument(jobs=(JOB,)),
    "app": APP,
    "app-list": doc.AppListDocument(apps=(APP,)),
    "submit": doc.SubmitDocument(job_id="j1", app="ab" * 32, state="queued"),
    "job-plot": doc.PlotDocument(
        jobs=(
            doc.JobCurves(
                job_id="j1",
                name="heart",
                state="running",
                curves=(
                    doc.Curve(
                        name="loss",
                        origin="live",
                        site="hospital-a",
                        axis="step",
                        steps=(1, 2),
                        values=(0.5, 0.25),
                    ),
                ),
                full=("hospital-a",),
            ),
        )
    ),
    "job-plan": doc.JobPlanDocument(
        name="heart",
        app="ab" * 32,
        starts=False,
        reason="1 of 2 sites would run it now; 2 are needed",
        sites=(
            doc.JobPlanSite(
                site="hospital-a",
                verdict="runs",
                room=doc.SiteOffer(cpus=8, memory=1 << 34, disk=1 << 36, gpus=("GPU-1",)),
            ),
            doc.JobPlanSite(
                site="hospital-b",
                verdict="refuses",
                reason="no policy",
                objections=(doc.Objection(code="policy-refused", message="no policy", hint="ask"),),
            ),
        ),
        quorum=2,
        ahead=1,
        position=2,
        disk=doc.DiskEstimate(needed=12, free=1 << 36, text="2 updates"),
        made_at=NOW,
    ),
    "job-delete": doc.JobDeletedDocument(job_id="j1", rounds=3),
    "doctor": doc.DoctorDocument(
        verdict="warning",
        kit="/kits/hospital-a",
        kind="site",
        name="hospital-a",
        version="0.1.0",
        checked_at=NOW,
        seconds=0.5,
        rows=(doc.DoctorRow(name="policy.yml", subject="", verdict="warning", found="none", next="cp a b"),),
    ),
    "certificates": doc.CertificateListDocument(
        certificates=(
            doc.CertificateDocument(
                subject="hospital-a",
                kind="site",
                identity="spiffe://x/site/org-a/hospital-a",
                state="overdue",
                serial="ab12",
                issued_at=NOW,
                not_after=NOW,
                days_left=12.5,
                how="join",
                renews_itself=True,
                hint="flprov site show hospital-a",
            ),
        ),
        at=NOW,
    ),
    "party-change": doc.PartyChangeDocument(
        name="hospital-a", kind="site", change="locked", changed=True, reason="look", ended=1
    ),
    "people": doc.PersonListDocument(
        people=(
            doc.PersonDocument(
                name="alice",
                org="org-a",
                role="lead",
                identity="spiffe://x/person/org-a/lead/alice",
                state="active",
                last_seen=NOW,
                cert_not_after=NOW,
            ),
        )
    ),
    "crls": doc.CRLListDocument(
        lists=(doc.CRLDocument(name="sites", pem="-----BEGIN X509 CRL-----", revoked=1, next_update=NOW),)
    ),
    "why": doc.WhyDocument(job_id="j1", state="failed", answer="it failed", causes=(CAUSE,)),
    "site-why": doc.SiteWhyDocument(
        name="site-1",
        state="stopped",
        answer="site-1: its agent was stopped",
        causes=(CAUSE,),
        hint="flprov site start KIT",
        seen=(doc.Seen(party="site-1", what="link", at=NOW, text="stopped by its operator"),),
    ),
    "site-status": doc.SiteStatusDocument(
        name="hospital-a",
        org="org-a",
        project="heart-study",
        version="0.1.0",
        server=("fl.heart-study.example:8443",),
        connected=True,
        link=doc.LinkStatus(state="connected", since=NOW),
        cert_not_after=NOW,
        policy="hospital-a.local/policy.yml",
        site_settings="hospital-a.local/site.yml",
        jobs={"j1": "training"},
        vitals=doc.Vitals(cpu=doc.CPU(count=2, load=0.5, percent=3), memory=SPACE, disk=SPACE, gpus=(GPU,)),
        renewal=doc.RenewalStatus(due_at=NOW, last_at=NOW, last_error="nothing listens at fl:8443"),
    ),
    "renewal": doc.RenewalDocument(name="hospital-a", serial="3f9a27c1", issued_at=NOW, not_after=NOW),
    "app-build": doc.AppBuildDocument(digest="ab" * 32, name="first", size=3, files=("job.yml",)),
    "download": doc.DownloadDocument(job_id="j1", folder="j1", files=("j1/metrics.json",)),
    "plan": PLAN,
    "provision": PROVISION,
    "kit": KIT,
    "kit-list": doc.KitListDocument(
        kits=(
            doc.KitVerdict(folder="/w/kits/alice", ok=True, kit=KIT, error=None),
            doc.KitVerdict(folder="/w/kits/bob", ok=False, kit=None, error=PROBLEM),
        )
    ),
    "kit-pack": doc.KitPackDocument(file="a.zip", kit="hospital-a", bytes=1, files=2),
    "kit-unpack": doc.KitUnpackDocument(
        folder="/srv/hospital-a", kit="hospital-a", kind="site", root_fingerprint="SHA256:AB"
    ),
    "kit-send": doc.KitSendDocument(deliveries=(DELIVERY,)),
    "poc-up": UP,
    "poc-status": NetworkState(
        folder="/p",
        state="running",
        project="poc",
        endpoint="localhost:1",
        admin_kit="/p/k",
        parties=(PARTY,),
    ),
    "poc-down": DownReport(
        folder="/p", stopped=("server",), killed=(), job_processes=(7,), seconds=0.2, deleted=False
    ),
    "ca": CA,
    "rotation": doc.RotationDocument(
        project="heart-study",
        workspace="/w",
        phase="prepared",
        changed=True,
        ended="",
        version=2,
        published=2,
        root_fingerprint="SHA256:AA",
        other_root_fingerprint="",
        authorities=CA.authorities,
        holders=(HOLDER,),
        blockers=(doc.Blocker(name="hospital-a", kind="site", reason="it is away"),),
        next="flprov ca rotate activate",
    ),
    "trust": doc.TrustStatusDocument(
        version=2,
        phase="prepared",
        made_at=NOW,
        endpoints=("a:8443",),
        authorities=CA.authorities,
        holders=(HOLDER,),
        withdrawn=(
            doc.WithdrawnPerson(identity=HOLDER.identity, at=NOW, reason="keyCompromise", before=NOW),
        ),
        removed_sites=("hospital-z",),
    ),
    "results": doc.ResultsDocument(job_id="j1", files=(doc.ResultFile(name="model.safetensors", size=3),)),
}


# ---- JSON schemas ------------------------------------------------------------------------------


def test_the_schemas_in_docs_are_current():
    assert schemas.stale() == [], "run: make schemas"


def test_every_document_has_a_schema_and_a_sample():
    tops = {name for name in vars(doc) if name.endswith("Document")}
    parts = {"RoundDocument", "JobSiteDocument"}  # of a job; never printed alone
    parts |= {"AuditRowDocument", "ReceiptDocument", "DisputeDocument", "RefusedDocument"}
    parts |= {"AuthorityDocument", "CertificateDocument", "CRLDocument", "PersonDocument"}  # of lists
    described = {kind.__name__ for kind, _ in schemas.SCHEMAS.values() if kind.__name__ in vars(doc)}
    assert tops - parts == described
    assert SAMPLES.keys() == schemas.SCHEMAS.keys()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_document_is_what_its_schema_says(name):
    schema = json.loads((ROOT / "docs" / "schemas" / f"{name}.json").read_text())
    document = json.loads(json.dumps(to_document(SAMPLES[name])))
    assert list(mismatches(document, schema, schema)) == []


@pytest.mark.parametrize("change", [{"job_id": None}, {"repeated": "no"}, {"app": 3}])
def test_a_document_of_another_shape_does_not_fit(change):
    schema = schemas.schema_of(doc.SubmitDocument, "")
    document = {"job_id": "j", "app": "a", "state": "queued", "repeated": False, "cost": ""} | change
    assert len(list(mismatches(document, schema, schema))) == 1
    assert len(list(mismatches({"job_id": "j"}, schema, schema))) == 4


def test_comments_of_fields_become_descriptions():
    parts = schemas.schema_of(doc.SubmitDocument, "")["$defs"]["SubmitDocument"]
    assert parts["properties"]["repeated"]["description"] == "the token had made this job before"


def test_a_field_that_json_schema_cannot_say_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Odd:
        """Odd."""

        pair: complex

    Odd.__annotations__ = {"pair": complex}
    with pytest.raises(TypeError, match="teach"):
        schemas.schema_of(Odd, "")


_TYPES: Mapping[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def mismatches(value: Any, schema: Any, top: Any, where: str = "$") -> Iterator[str]:
    """Where a JSON value breaks a schema; the few keywords that ours use."""
    if "$ref" in schema:
        yield from mismatches(value, top["$defs"][schema["$ref"].rpartition("/")[2]], top, where)
        return
    if "anyOf" in schema:
        if all(any(mismatches(value, choice, top, where)) for choice in schema["anyOf"]):
            yield f"{where} is none of the choices"
        return
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{where} is no {kind}"
        return
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{where}.{key} is missing"
    for key, item in value.items() if kind == "object" else ():
        inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if inner:
            yield from mismatches(item, inner, top, f"{where}.{key}")
    for number, item in enumerate(value) if kind == "array" else ():
        yield from mismatches(item, schema["items"], top, f"{where}[{number}]")


# ---- protobuf ----------------------------------------------------------------------------------


def test_the_protobuf_module_is_made_from_the_proto_that_lies_beside_it(tmp_path):
    pytest.importorskip("grpc_tools")
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

    from flprov.wire import flprov_pb2

    out = tmp_path / "set"
    # In a process of its own: beside other libraries that bring a protobuf of theirs, protoc crashes.
    words = ["grpc_tools.protoc", f"-I{WIRE}", f"--descriptor_set_out={out}", str(WIRE / "flprov.proto")]
    subprocess.run([sys.executable, "-m", *words], check=True)
    (made,) = FileDescriptorSet.FromString(out.read_bytes()).file
    checked_in = FileDescriptorProto.FromString(flprov_pb2.DESCRIPTOR.serialized_pb)
    for descriptor in (made, checked_in):  # how JSON names are spelled out depends on protoc's version
        _drop_json_names(descriptor.message_type)
    assert made == checked_in, "run: make proto"


def _drop_json_names(messages: Any) -> None:
    for message in messages:
        for field in message.field:
            field.ClearField("json_name")
        _drop_json_names(message.nested_type)


def test_the_stubs_name_every_message_and_field():
    from flprov.wire import flprov_pb2

    stubs = (WIRE / "flprov_pb2.pyi").read_text()
    for message in flprov_pb2.DESCRIPTOR.message_types_by_name.values():
        assert f"class {message.name}(" in stubs
        for field in message.fields:
            assert re.search(rf"^    {field.name}: ", stubs, re.MULTILINE), f"{message.name}.{field.name}"


def test_the_protobuf_that_we_ask_pip_for_can_run_the_generated_module():
    """Generated code refuses a runtime that is older than the protoc that made it."""
    source = (WIRE / "flprov_pb2.py").read_text()
    found = re.search(r"Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", source)
    assert found
    major, minor, patch = map(int, found.groups())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "protobuf"]
    assert wanted.specifier.contains(f"{major}.{minor}.{patch}")
    assert not wanted.specifier.contains(f"{major}.{minor - 1}.0"), f"needs protobuf>={major}.{minor}.{patch}"
    assert not wanted.specifier.contains(f"{major - 1}.99.0"), f"needs protobuf>={major}.{minor}.{patch}"


def test_the_protocol_version_is_the_newest_line_of_its_history():
    source = Path(WIRE / "version.py").read_text()
    lines = re.findall(r"^    (\d+)  (\d{4}-\d{2}-\d{2})  (\S.*)$", source, re.MULTILINE)
    from flprov.wire import PROTOCOL
    from flprov.wire.version import OLDEST

    numbers = [int(number) for number, _, _ in lines]
    dates = [date for _, date, _ in lines]
    assert numbers == list(range(1, PROTOCOL + 1))
    assert dates == sorted(dates)
    assert OLDEST in (PROTOCOL, PROTOCOL - 1)
