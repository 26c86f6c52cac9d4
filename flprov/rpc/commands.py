# SPDX-License-Identifier: Apache-2.0
"""What a person typed to make a call, for the words of a refusal: nobody types the path of a method."""

from __future__ import annotations

from collections.abc import Mapping

from flprov.rpc.methods import Method

# By the name of the row. Of several commands the plainest is named; empty: no command of its own.
COMMANDS: Mapping[str, str] = {
    "Status": "status",
    "ListSites": "site ls",
    "ShowSite": "site show",
    "WhySite": "site why",
    "UploadApp": "app upload",
    "ListApps": "app ls",
    "ShowApp": "app show",
    "DownloadApp": "job submit",
    "SubmitJob": "job submit",
    "PlanJob": "job plan",
    "ListJobs": "job ls",
    "ShowJob": "job show",
    "WatchJob": "job wait",
    "WhyJob": "job why",
    "JobLogs": "job logs",
    "WatchSeries": "job plot",
    "AbortJob": "job abort",
    "DeleteJob": "job delete",
    "ListResults": "job download",
    "DownloadResult": "job download",
    "WatchEvents": "events",
    "ReadAudit": "audit ls",
    "ExportLog": "audit export",
    "ShowWitnesses": "audit verify",
    "AddSite": "site add",
    "RemoveSite": "site rm",
    "LockSite": "site lock",
    "UnlockSite": "site unlock",
    "ListPeople": "user ls",
    "RemovePerson": "user rm",
    "ListCertificates": "cert ls",
    "RenewCertificate": "cert renew",
    "RevokeCertificate": "cert revoke",
    "ExportCRLs": "cert crl",
    "CreateInvite": "invite create",
    "ListInvites": "invite ls",
    "DecideInvite": "invite approve",
    "RelayJoin": "invite approve",
    "FetchTrust": "",  # learnt beside any command
    "ShowTrust": "ca rotate status",
    "PublishTrust": "ca publish",
    "DrainSite": "site drain",
    "EnableSite": "site enable",
    "WatchDrain": "site drain",
    "OrderSite": "site stop",
    "DrainServer": "server drain",
    "EnableServer": "server enable",
    "Clean": "server gc",
}


def command_of(method: Method) -> str:
    """`flprov job abort`; the method's own name when no command belongs to it alone."""
    name = method.path.rpartition("/")[2]
    command = COMMANDS.get(name, "")
    return f"flprov {command}" if command else name
