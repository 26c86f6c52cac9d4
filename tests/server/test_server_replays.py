# SPDX-License-Identifier: Apache-2.0
"""Every call that changes something: sent twice it acts once, sent late not at all, and its key is its own.

Which calls those are is read from the method table: what a person sends with a `key`. A new row is asked for
its two good requests here.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from server_fakes import PATIENCE
from server_running import Running, copy_config, put_job, running

from flprov._base import to_iso
from flprov.errors import FlprovError, Misuse
from flprov.jobs import JobState
from flprov.pki import Kind, create_key, create_request
from flprov.rpc import METHODS, Method
from flprov.rpc import methods as m
from flprov.wire import Message, pb

CHANGES = [method for method in METHODS if Kind.PERSON in method.kinds and hasattr(method.request(), "key")]
# Without a key of its own: the submission's token and its not_after, which are signed, do the same.
BY_TOKEN = {"SubmitJob"}
# A good request needs an invite or a rotation: their own tests do the same as these.
ELSEWHERE = {"RelayJoin", "DecideInvite", "PublishTrust"}


def invite(site: str) -> pb.InviteRequest:
    return pb.InviteRequest(site=site, lifetime_seconds=600, request=create_request(create_key()))


# A good request, and another one of the same method; None: there is no other thing to name.
GOOD: dict[str, tuple[Callable[[], Message], Callable[[], Message] | None]] = {
    "AbortJob": (lambda: pb.AbortRequest(job_id="0job"), lambda: pb.AbortRequest(job_id="1job")),
    "DeleteJob": (lambda: pb.JobChange(job_id="8gone"), lambda: pb.JobChange(job_id="9gone")),
    "AddSite": (
        lambda: pb.PartyChange(name="site-8", org="org-a"),
        lambda: pb.PartyChange(name="site-9", org="org-a"),
    ),
    "RemoveSite": (lambda: pb.PartyChange(name="site-3"), lambda: pb.PartyChange(name="site-2")),
    "LockSite": (lambda: pb.PartyChange(name="site-3"), lambda: pb.PartyChange(name="site-2")),
    "UnlockSite": (lambda: pb.PartyChange(name="site-3"), lambda: pb.PartyChange(name="site-2")),
    "DrainSite": (lambda: pb.PartyChange(name="site-3"), lambda: pb.PartyChange(name="site-2")),
    "EnableSite": (lambda: pb.PartyChange(name="site-3"), lambda: pb.PartyChange(name="site-2")),
    "OrderSite": (lambda: pb.SiteOrder(name="site-3"), lambda: pb.SiteOrder(name="site-2")),
    "RemovePerson": (lambda: pb.PartyChange(name="mia"), lambda: pb.PartyChange(name="leo")),
    "RevokeCertificate": (
        lambda: pb.CertificateChange(target="leo"),
        lambda: pb.CertificateChange(target="mia"),
    ),
    "RenewCertificate": (lambda: pb.PartyChange(name="server"), None),
    "CreateInvite": (lambda: invite("site-3"), lambda: invite("site-2")),
    "DrainServer": (pb.PartyChange, None),
    "EnableServer": (pb.PartyChange, None),
    "Clean": (pb.CleanRequest, None),
}
# What is not locked cannot be unlocked, and a command without an effect leaves no key.
BEFORE = {"UnlockSite": m.LOCK_SITE, "EnableSite": m.DRAIN_SITE}
FAILS_ALONE = {"OrderSite"}  # no agent is connected here: refused each time, so that nothing is kept


def name_of(method: Method) -> str:
    return method.path.rpartition("/")[2]


TESTED = [method for method in CHANGES if name_of(method) in GOOD]


@pytest.fixture
async def server(kit_folder, tmp_path, made_at, app) -> AsyncIterator[Running]:
    config = copy_config(kit_folder, tmp_path, made_at)
    for id_ in ("0job", "1job"):
        await put_job(config, app, id=id_, token=id_, targets=("site-1",), state=JobState.QUEUED)
    for id_ in ("8gone", "9gone"):
        await put_job(config, app, id=id_, token=id_, targets=("site-1",), state=JobState.COMPLETED)
    async with running(config) as found:
        yield found


class Ada:
    """A project_admin who sends what she is told to."""

    def __init__(self, server: Running, kit: Any) -> None:
        self._connection = server.connect(kit("ada"))
        self._store = server.server._store

    async def send(self, method: Method, request: Message, **fields: str) -> bytes:
        for name, value in fields.items():
            setattr(request, name, value)
        if method.shape is m.Shape.UNARY:
            return (await self._connection.unary(method, request, timeout=PATIENCE)).SerializeToString()
        async with contextlib.aclosing(self._connection.download(method, request)) as replies:
            found = await anext(replies, None)
        return found.SerializeToString() if found is not None else b""

    def rows(self) -> list[str]:
        """What the log has, without what is written beside every call.

        The end of a job that was aborted comes when its work is over, whoever asks meanwhile.
        """
        beside = ("cert.seen", "call", "job.end")
        return [entry.row.what for entry in self._store.rows() if entry.row.what not in beside]


@pytest.fixture
def ada(server, kit) -> Ada:
    return Ada(server, kit)


def test_every_call_that_changes_something_has_a_key_and_is_tested():
    """Whoever adds a row that changes something gives its request a key, and it a line here."""
    assert {name_of(method) for method in CHANGES} == set(GOOD) | ELSEWHERE
    keyless = {name_of(method) for method in METHODS if Kind.PERSON in method.kinds} - {
        name_of(method) for method in CHANGES
    }
    reads = (
        "Show",
        "List",
        "Why",
        "Watch",
        "Fetch",
        "Download",
        "Read",
        "Export",
        "Status",
        "JobLogs",
        "Plan",
    )
    changing = {name for name in keyless if not name.startswith(reads)}
    assert changing == BY_TOKEN | {"UploadApp"}  # whose digest is its key


@pytest.mark.parametrize("method", TESTED, ids=name_of)
async def test_the_same_command_again_has_no_second_effect(ada, method):
    request, _ = GOOD[name_of(method)]
    sent = request()
    if name_of(method) in FAILS_ALONE:
        with pytest.raises(FlprovError):
            await ada.send(method, sent, key="k1")
        return
    await ada.send(method, sent, key="k1")
    before = ada.rows()
    await ada.send(method, sent, key="k1")
    assert ada.rows() == before


@pytest.mark.parametrize("method", TESTED, ids=name_of)
async def test_a_command_that_comes_late_is_not_carried_out(ada, server, method):
    request, _ = GOOD[name_of(method)]
    late = to_iso(server.server._clock.now() - timedelta(seconds=1))
    before = ada.rows()
    with pytest.raises(Misuse, match="came after its not_after and was not carried out"):
        await ada.send(method, request(), key="k1", not_after=late)
    assert ada.rows() == before


@pytest.mark.parametrize("method", [one for one in TESTED if GOOD[name_of(one)][1]], ids=name_of)
async def test_the_key_of_one_command_is_not_taken_for_another(ada, method):
    request, other = GOOD[name_of(method)]
    assert other is not None
    if name_of(method) in FAILS_ALONE:
        return
    if name_of(method) in BEFORE:
        await ada.send(BEFORE[name_of(method)], request())
    await ada.send(method, request(), key="k1")
    before = ada.rows()
    with pytest.raises(Misuse, match="key of this command was used for another one"):
        await ada.send(method, other(), key="k1")
    assert ada.rows() == before


async def test_the_key_of_one_method_is_not_taken_for_another_method(ada):
    await ada.send(m.LOCK_SITE, pb.PartyChange(name="site-3"), key="k1")
    with pytest.raises(Misuse, match="used for another one"):
        await ada.send(m.UNLOCK_SITE, pb.PartyChange(name="site-3"), key="k1")


@pytest.mark.parametrize("method", TESTED, ids=name_of)
async def test_a_not_after_that_is_no_time_is_misuse(ada, method):
    request, _ = GOOD[name_of(method)]
    with pytest.raises(Misuse, match="not_after is not a time"):
        await ada.send(method, request(), key="k1", not_after="tomorrow")
