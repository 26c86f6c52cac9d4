# SPDX-License-Identifier: Apache-2.0
"""Every method, called as every kind of caller, over real handshakes; the result of the RPC decides."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from forgery import SERVER as SERVER_AUTH
from forgery import forge
from parties import DOMAIN, INVITE, LEAD, SERVER, SITE, credential, make_project, person, project
from raw import RawCaller

from flprov.errors import IdentityRefused, PermissionRefused, ProtocolError
from flprov.pki import Credential, Identity, Kind, Role
from flprov.rpc import METHODS, Shape
from flprov.rpc.grpc_settings import grpc

OK = grpc.StatusCode.OK
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

# Written out by hand, and not taken from the table: this is what the table is held against.
SITE_ONLY = {
    "Site/Control",
    "Site/CompareBlob",
    "Site/FetchBlob",
    "Site/SendBlob",
    "Site/SendLogs",
    "Site/SendPoints",
    "Site/Renew",
}
INVITED = {"Invite/Join"}
OBSERVE = {
    "Admin/Status",
    "Admin/ListSites",
    "Admin/ListApps",
    "Admin/ListJobs",
    "Admin/ListPeople",
    "Admin/ListCertificates",
    "Admin/ExportCRLs",
    "Admin/FetchTrust",
    "Admin/ShowTrust",
}
ENROL = {
    "Admin/ReadAudit",
    "Admin/AddSite",
    "Admin/RemoveSite",
    "Admin/LockSite",
    "Admin/UnlockSite",
    "Admin/RemovePerson",
    "Admin/RenewCertificate",
    "Admin/RevokeCertificate",
    "Admin/CreateInvite",
    "Admin/ListInvites",
    "Admin/DecideInvite",
    "Admin/RelayJoin",
    "Admin/DrainSite",
    "Admin/EnableSite",
    "Admin/WatchDrain",
    "Admin/OrderSite",
}
OPERATE = {"Admin/DrainServer", "Admin/EnableServer", "Admin/Clean"}
LOG = {"Admin/ExportLog", "Admin/ShowWitnesses"}  # the whole log, of a project_admin alone
SHOW = OBSERVE | {
    "Admin/ShowSite",
    "Admin/WhySite",
    "Admin/ShowApp",
    "Admin/ShowJob",
    "Admin/WatchJob",
    "Admin/WatchEvents",
    "Admin/WhyJob",
    "Admin/JobLogs",
    "Admin/WatchSeries",
    "Admin/ListResults",
    "Admin/DownloadResult",
}
RUN = SHOW | {
    "Admin/UploadApp",
    "Admin/DownloadApp",
    "Admin/SubmitJob",
    "Admin/PlanJob",
    "Admin/AbortJob",
    "Admin/DeleteJob",
}

GOOD: dict[Identity, set[str]] = {
    SITE: SITE_ONLY,
    person(Role.OBSERVER): OBSERVE,
    person(Role.MEMBER): SHOW,
    INVITE: INVITED,
    person(Role.ORG_ADMIN): SHOW | ENROL | {"Admin/AbortJob"},
    person(Role.LEAD): RUN,
    person(Role.PROJECT_ADMIN): RUN | ENROL | LOG | OPERATE | {"Admin/PublishTrust"},
}


def names() -> dict[str, str]:
    return {method.path: method.path.removeprefix("/flprov.v1.") for method in METHODS}


@pytest.mark.parametrize(
    "caller", GOOD, ids=lambda caller: caller.role.value if caller.role else caller.kind.value
)
async def test_each_caller_may_call_what_the_plan_says_and_nothing_else(start_grpc, caller):
    network = await start_grpc()
    allowed = set()
    async with RawCaller(network.listener.port, credential(caller)) as raw:
        for path, name in names().items():
            answer = await raw.call(path, b"")
            assert answer.code in (OK, DENIED), (path, answer)
            if answer.code is OK:
                allowed.add(name)
                assert answer.replies == [b""]
            else:
                assert answer.replies == []
                assert answer.trailers["flprov-code"] == "permission-refused"
    assert allowed == GOOD[caller]
    refused = [(who, path) for who, path, _ in network.refusals]
    assert refused == [(caller, path) for path, name in names().items() if name not in GOOD[caller]]


def _stranger() -> Credential:
    return make_project().issue(LEAD)


# Who does not get through the handshake. gRPC just hangs up: the client sees UNAVAILABLE.
OUTSIDE = {
    "no certificate": lambda: None,
    "another CA of the same name": _stranger,
    "expired": lambda: project().issue(SITE, now=datetime.now(UTC) - timedelta(days=9), days=1),
    "not yet valid": lambda: project().issue(SITE, now=datetime.now(UTC) + timedelta(days=9), days=1),
    "a server's certificate": lambda: credential(SERVER),
    "self-signed": lambda: forge(None, SITE.uri),
    "signed by the root": lambda: forge(project().root, SITE.uri),
    "signed by a leaf": lambda: _signed_by_leaf(),
    "for servers, signed by the sites CA": lambda: forge(project().sites, SITE.uri, usage=SERVER_AUTH),
}

# Whom gRPC lets in and our own check does not.
INSIDE = {
    "a person, signed by the sites CA": lambda: forge(project().sites, LEAD.uri),
    "a site, signed by the people CA": lambda: forge(project().people, SITE.uri),
    "a server, signed by the sites CA": lambda: forge(project().sites, SERVER.uri),
    "without an extended key usage": lambda: forge(project().sites, SITE.uri, usage=None),
    "a CA's own certificate": lambda: forge(project().sites, SITE.uri, is_ca=True),
    "with a host name": lambda: forge(project().sites, SITE.uri, hosts=("localhost",)),
    "of another trust domain": lambda: forge(project().sites, "spiffe://elsewhere.example/site/north/a"),
    "with an unknown role": lambda: forge(project().people, f"spiffe://{DOMAIN}/person/north/root/kim"),
    "with no identity at all": lambda: forge(project().sites, "https://example.org/"),
}


def _signed_by_leaf() -> Credential:
    from flprov.pki import load_authority

    leaf = forge(project().sites, SITE.uri)
    try:
        signer = load_authority(leaf.certificate_pem, leaf.private_pem)
    except IdentityRefused:
        signer = _Signer(leaf)
    return forge(signer, SITE.uri)  # type: ignore[arg-type]


class _Signer:
    """As much of an Authority as `forge` needs."""

    def __init__(self, leaf: Credential) -> None:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self.key = load_pem_private_key(leaf.private_pem, None)
        self.certificate_pem = leaf.certificate_pem


@pytest.mark.parametrize("villain", OUTSIDE)
async def test_villain_outside_calls_nothing(start_grpc, villain):
    network = await start_grpc()
    async with RawCaller(network.listener.port, OUTSIDE[villain]()) as raw:
        for method in METHODS:
            answer = await raw.call(method.path, b"")
            assert (answer.code, answer.replies) == (UNAVAILABLE, []), method.path
    assert network.refusals == []  # the server never saw a call


@pytest.mark.parametrize("villain", INSIDE)
async def test_villain_that_grpc_lets_in_calls_nothing(start_grpc, villain):
    network = await start_grpc()
    async with RawCaller(network.listener.port, INSIDE[villain]()) as raw:
        for method in METHODS:
            answer = await raw.call(method.path, b"")
            assert (answer.code, answer.replies) == (UNAUTHENTICATED, []), method.path
            assert answer.trailers["flprov-code"] == "identity-refused"
    assert [(who, path, type(why)) for who, path, why in network.refusals] == [
        (None, method.path, IdentityRefused) for method in METHODS
    ]


async def test_good_caller_passes_where_villains_do_not(start_grpc):
    """So that the tests above cannot pass because nobody passes."""
    network = await start_grpc()
    async with RawCaller(network.listener.port, forge(project().sites, SITE.uri)) as raw:
        assert (await raw.call("/flprov.v1.Site/SendLogs", b"")).code is OK


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((), "protocol-error"),
        ((("flprov-protocol", ""),), "protocol-error"),
        ((("flprov-protocol", "0"),), "protocol-error"),
        ((("flprov-protocol", "2"),), "protocol-error"),
        ((("flprov-protocol", "-1"),), "protocol-error"),
        ((("flprov-protocol", "1e0"),), "protocol-error"),
        ((("flprov-protocol", "9" * 5000),), "protocol-error"),
        ((("flprov-protocol", "1"), ("flprov-protocol", "1")), "protocol-error"),
    ],
)
async def test_call_without_a_version_that_we_speak_is_refused(start_grpc, metadata, code):
    network = await start_grpc()
    async with RawCaller(network.listener.port, credential(LEAD)) as raw:
        answer = await raw.call("/flprov.v1.Admin/Status", b"", metadata=metadata)
    assert answer.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (answer.trailers["flprov-code"], answer.trailers["flprov-protocol"]) == (code, "1")
    assert [type(error) for _, _, error in network.refusals] == [ProtocolError]


@pytest.mark.parametrize(
    "path",
    ["/", "//", "/flprov.v1.Admin", "/flprov.v1.Admin/", "/flprov.v1.Admin/status", "/flprov.v1.Site/Status",
     "/flprov.v1.Admin/Status/", "/grpc.health.v1.Health/Check", "/flprov.v1.Admin/" + "x" * 4000],
    ids=lambda path: path[:30],
)  # fmt: skip
async def test_what_is_not_in_the_table_is_refused_and_not_unimplemented(start_grpc, path):
    network = await start_grpc()
    async with RawCaller(network.listener.port, credential(LEAD)) as raw:
        answer = await raw.call(path, b"")
    assert answer.code is DENIED
    assert [type(error) for _, _, error in network.refusals] == [PermissionRefused]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.rsplit("/")[-1])
async def test_random_bytes_and_missing_requests_are_protocol_errors(start_grpc, method):
    callers = {Kind.SITE: SITE, Kind.INVITE: INVITE, Kind.PERSON: person(Role.PROJECT_ADMIN)}
    caller = next(callers[kind] for kind in method.kinds)
    network = await start_grpc()
    async with RawCaller(network.listener.port, credential(caller)) as raw:
        garbage = await raw.call(method.path, b"\x0f\xff\xff\xff")
        nothing = await raw.call(method.path)
        several = await raw.call(method.path, b"", b"", b"")
    assert garbage.code is grpc.StatusCode.INVALID_ARGUMENT
    assert garbage.trailers["flprov-code"] == "protocol-error"
    if method.shape is Shape.STREAM:
        assert (nothing.code, several.replies) == (OK, [b"", b"", b""])
    else:
        assert nothing.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (several.code, several.replies) == (OK, [b""])


async def test_declared_length_beyond_the_limit_is_refused(start_grpc):
    network = await start_grpc()
    async with RawCaller(network.listener.port, credential(LEAD)) as raw:
        huge = await raw.call("/flprov.v1.Admin/SubmitJob", bytes(6 << 20))
        after = await raw.call("/flprov.v1.Admin/Status", b"")
    assert huge.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert after.code is OK
