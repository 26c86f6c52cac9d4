# SPDX-License-Identifier: Apache-2.0
"""The one table of what can be called: method, shape, who may, and the rule on objects.

A method that is not here does not exist: the same table registers the handlers, and a server that
lacks a handler for a row, or has one without a row, does not start. Adding a row: see
docs/checklists.md.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from google.protobuf.message import Message

from flprov._base import dataclass
from flprov.pki import Identity, Kind, Role
from flprov.wire import pb


class Shape(enum.Enum):
    """How messages flow in a call."""

    UNARY = "unary"  # one request, one reply
    DOWNLOAD = "download"  # one request, a stream of replies
    STREAM = "stream"  # streams both ways


class ObjectRule(enum.Enum):
    """Which objects the caller may name; enforced where the object is looked up."""

    NONE = "none"  # the call names no object, or what it names may be seen by all its callers
    OWN_SITE = "own_site"  # a site: only tasks, blobs and logs of its own jobs
    OWN_JOB = "own_job"  # a lead: own jobs; an org_admin: jobs at the own sites; an admin: all
    OWN_ORG = "own_org"  # an org_admin: sites, invites and people of the own organisation; an admin: all
    OWN_ORG_JOB = "own_org_job"  # a member: jobs submitted by the own organisation; else OWN_JOB


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table."""

    path: str
    shape: Shape
    request: type[Message]
    reply: type[Message] | type[bytes]  # bytes: a stream of them, as they are
    kinds: frozenset[Kind]
    roles: frozenset[Role] = frozenset()  # for persons
    rule: ObjectRule = ObjectRule.NONE
    brings_bytes: bool = False  # what follows the first request is bytes, as they are

    def allows(self, caller: Identity) -> bool:
        """Whether this caller may call at all; the object rule comes on top."""
        if caller.kind not in self.kinds:
            return False
        return caller.kind is not Kind.PERSON or caller.role in self.roles


_ALL = frozenset(Role)
_SHOW = _ALL - {Role.OBSERVER}
_RUN = frozenset({Role.PROJECT_ADMIN, Role.LEAD})
_ABORT = frozenset({Role.PROJECT_ADMIN, Role.LEAD, Role.ORG_ADMIN})
_ENROL = frozenset({Role.PROJECT_ADMIN, Role.ORG_ADMIN})
_OPERATE = frozenset({Role.PROJECT_ADMIN})


def _site(
    name: str,
    shape: Shape,
    request: type[Message],
    reply: type[Message] | type[bytes],
    *,
    brings_bytes: bool = False,
) -> Method:
    return Method(
        path=f"/flprov.v1.Site/{name}",
        shape=shape,
        request=request,
        reply=reply,
        kinds=frozenset({Kind.SITE}),
        rule=ObjectRule.OWN_SITE,
        brings_bytes=brings_bytes,
    )


def _person(
    name: str,
    shape: Shape,
    request: type[Message],
    reply: type[Message] | type[bytes],
    roles: Iterable[Role],
    rule: ObjectRule = ObjectRule.NONE,
    *,
    brings_bytes: bool = False,
) -> Method:
    return Method(
        path=f"/flprov.v1.Admin/{name}",
        shape=shape,
        request=request,
        reply=reply,
        kinds=frozenset({Kind.PERSON}),
        roles=frozenset(roles),
        rule=rule,
        brings_bytes=brings_bytes,
    )


# ---- a site's ------------------------------------------------------------------------------
CONTROL = _site("Control", Shape.STREAM, pb.FromSite, pb.ToSite)
FETCH_BLOB = _site("FetchBlob", Shape.STREAM, pb.BlobRequest, bytes)
COMPARE_BLOB = _site("CompareBlob", Shape.UNARY, pb.CompareRequest, pb.CompareReply)
SEND_BLOB = _site("SendBlob", Shape.STREAM, pb.UploadHeader, pb.UploadReply, brings_bytes=True)
SEND_LOGS = _site("SendLogs", Shape.STREAM, pb.LogMessage, pb.LogReply)
SEND_POINTS = _site("SendPoints", Shape.UNARY, pb.PointsMessage, pb.PointsReply)

RENEW = _site("Renew", Shape.UNARY, pb.RenewRequest, pb.Issued)

# ---- an invited site's, and nothing else ---------------------------------------------------
JOIN = Method(
    path="/flprov.v1.Invite/Join",
    shape=Shape.DOWNLOAD,
    request=pb.JoinRequest,
    reply=pb.JoinReply,
    kinds=frozenset({Kind.INVITE}),
    rule=ObjectRule.OWN_SITE,
)

# ---- a person's ----------------------------------------------------------------------------
STATUS = _person("Status", Shape.UNARY, pb.Query, pb.Document, _ALL)
LIST_SITES = _person("ListSites", Shape.UNARY, pb.Query, pb.Document, _ALL)
SHOW_SITE = _person("ShowSite", Shape.UNARY, pb.Query, pb.Document, _SHOW)
WHY_SITE = _person("WhySite", Shape.UNARY, pb.Query, pb.Document, _SHOW)
UPLOAD_APP = _person("UploadApp", Shape.STREAM, pb.UploadHeader, pb.UploadReply, _RUN, brings_bytes=True)
LIST_APPS = _person("ListApps", Shape.UNARY, pb.Query, pb.Document, _ALL)
SHOW_APP = _person("ShowApp", Shape.UNARY, pb.Query, pb.Document, _SHOW)
DOWNLOAD_APP = _person("DownloadApp", Shape.DOWNLOAD, pb.BlobRequest, bytes, _RUN)
SUBMIT_JOB = _person("SubmitJob", Shape.UNARY, pb.SubmitRequest, pb.Document, _RUN)
PLAN_JOB = _person("PlanJob", Shape.UNARY, pb.SubmitRequest, pb.Document, _RUN)
LIST_JOBS = _person("ListJobs", Shape.UNARY, pb.Query, pb.Document, _ALL)
SHOW_JOB = _person("ShowJob", Shape.UNARY, pb.Query, pb.Document, _SHOW)
WATCH_JOB = _person("WatchJob", Shape.DOWNLOAD, pb.Query, pb.Document, _SHOW)
WHY_JOB = _person("WhyJob", Shape.UNARY, pb.Query, pb.Document, _SHOW)
JOB_LOGS = _person("JobLogs", Shape.DOWNLOAD, pb.LogsRequest, pb.LogMessage, _SHOW)
WATCH_SERIES = _person("WatchSeries", Shape.DOWNLOAD, pb.SeriesRequest, pb.SeriesPart, _SHOW)
ABORT_JOB = _person("AbortJob", Shape.UNARY, pb.AbortRequest, pb.Document, _ABORT, ObjectRule.OWN_JOB)
DELETE_JOB = _person("DeleteJob", Shape.UNARY, pb.JobChange, pb.Document, _RUN, ObjectRule.OWN_JOB)
LIST_RESULTS = _person("ListResults", Shape.UNARY, pb.Query, pb.Document, _SHOW, ObjectRule.OWN_ORG_JOB)
DOWNLOAD_RESULT = _person(
    "DownloadResult", Shape.DOWNLOAD, pb.DownloadRequest, bytes, _SHOW, ObjectRule.OWN_ORG_JOB
)

# ---- the log -------------------------------------------------------------------------------
WATCH_EVENTS = _person("WatchEvents", Shape.DOWNLOAD, pb.EventsRequest, pb.Document, _SHOW)
READ_AUDIT = _person("ReadAudit", Shape.DOWNLOAD, pb.EventsRequest, pb.Document, _ENROL, ObjectRule.OWN_ORG)
EXPORT_LOG = _person("ExportLog", Shape.DOWNLOAD, pb.EventsRequest, bytes, frozenset({Role.PROJECT_ADMIN}))
SHOW_WITNESSES = _person("ShowWitnesses", Shape.UNARY, pb.Query, pb.Document, frozenset({Role.PROJECT_ADMIN}))

# ---- identities ----------------------------------------------------------------------------
ADD_SITE = _person("AddSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
REMOVE_SITE = _person("RemoveSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
LOCK_SITE = _person("LockSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
UNLOCK_SITE = _person("UnlockSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
LIST_PEOPLE = _person("ListPeople", Shape.UNARY, pb.Query, pb.Document, _ALL)
REMOVE_PERSON = _person("RemovePerson", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
LIST_CERTIFICATES = _person("ListCertificates", Shape.UNARY, pb.Query, pb.Document, _ALL)
RENEW_CERTIFICATE = _person(
    "RenewCertificate", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG
)
REVOKE_CERTIFICATE = _person(
    "RevokeCertificate", Shape.UNARY, pb.CertificateChange, pb.Document, _ENROL, ObjectRule.OWN_ORG
)
EXPORT_CRLS = _person("ExportCRLs", Shape.UNARY, pb.Query, pb.Document, _ALL)
CREATE_INVITE = _person(
    "CreateInvite", Shape.UNARY, pb.InviteRequest, pb.Document, _ENROL, ObjectRule.OWN_ORG
)
LIST_INVITES = _person("ListInvites", Shape.UNARY, pb.Query, pb.Document, _ENROL, ObjectRule.OWN_ORG)
DECIDE_INVITE = _person(
    "DecideInvite", Shape.UNARY, pb.InviteDecision, pb.Document, _ENROL, ObjectRule.OWN_ORG
)
RELAY_JOIN = _person("RelayJoin", Shape.UNARY, pb.RelayedJoin, pb.JoinReply, _ENROL, ObjectRule.OWN_ORG)
FETCH_TRUST = _person("FetchTrust", Shape.UNARY, pb.Query, pb.TrustBundle, _ALL)
SHOW_TRUST = _person("ShowTrust", Shape.UNARY, pb.Query, pb.Document, _ALL)
PUBLISH_TRUST = _person(
    "PublishTrust", Shape.UNARY, pb.PublishTrust, pb.Document, frozenset({Role.PROJECT_ADMIN})
)

# ---- operations ----------------------------------------------------------------------------
DRAIN_SITE = _person("DrainSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
ENABLE_SITE = _person("EnableSite", Shape.UNARY, pb.PartyChange, pb.Document, _ENROL, ObjectRule.OWN_ORG)
WATCH_DRAIN = _person("WatchDrain", Shape.DOWNLOAD, pb.Query, pb.Document, _ENROL, ObjectRule.OWN_ORG)
ORDER_SITE = _person("OrderSite", Shape.DOWNLOAD, pb.SiteOrder, pb.Document, _ENROL, ObjectRule.OWN_ORG)
DRAIN_SERVER = _person("DrainServer", Shape.UNARY, pb.PartyChange, pb.Document, _OPERATE)
ENABLE_SERVER = _person("EnableServer", Shape.UNARY, pb.PartyChange, pb.Document, _OPERATE)
CLEAN = _person("Clean", Shape.UNARY, pb.CleanRequest, pb.Document, _OPERATE)

METHODS: tuple[Method, ...] = tuple(value for value in globals().values() if isinstance(value, Method))
BY_PATH: dict[str, Method] = {method.path: method for method in METHODS}
