# SPDX-License-Identifier: Apache-2.0
"""Asking to join: what is waited for, what is told, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from flprov._base import canonical_json
from flprov.agent import ask_to_join
from flprov.errors import IdentityRefused, ServerUnavailable
from flprov.kits import Invitation, encode_invitation, open_attempt
from flprov.pki import (
    Identity,
    Kind,
    create_issuing,
    create_key,
    create_root,
    fingerprint,
    issue_identity,
    public_key_pem,
    verify_request,
)
from flprov.rpc.methods import JOIN
from flprov.testing.clock import FakeClock
from flprov.wire import pb

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ISSUED = pb.JoinReply(
    issued=pb.Issued(
        chain=b"chain",
        trust=pb.TrustBundle(document=b"d", signature=b"s", signer=b"p"),
        settings=canonical_json({"contact": "ada"}),
    )
)
PENDING = pb.JoinReply(pending=pb.JoinPending(fingerprint="of the server's choice"))


@pytest.fixture(scope="module")
def line() -> str:
    root = create_root(project="p", trust_domain="p.example", days=30, now=NOW)
    sites = create_issuing(root, kind=Kind.SITE, days=20, now=NOW)
    servers = create_issuing(root, kind=Kind.SERVER, days=20, now=NOW)
    identity = Identity(trust_domain="p.example", kind=Kind.INVITE, org="o", name="clinic", invite="0" * 16)
    key = create_key()
    made = issue_identity(sites, identity, days=1, now=NOW, public_pem=public_key_pem(key))
    return encode_invitation(
        Invitation(
            project="p",
            project_id="id",
            server="server",
            endpoints=("localhost:1",),
            root=fingerprint(root.certificate_pem),
            server_anchors_pem=servers.certificate_pem,
            chain_pem=made.certificate_pem,
            private_pem=key,
        )
    )


class Script:
    """A server that answers each call with the next part of a script."""

    def __init__(self, *calls: list[pb.JoinReply | Exception]) -> None:
        self.calls = list(calls)
        self.requests: list[bytes] = []
        self.closed = 0

    def dial(self) -> Script:
        return self

    async def download(self, method: object, request: pb.JoinRequest) -> AsyncIterator[pb.JoinReply]:
        assert method is JOIN
        self.requests.append(request.request)
        for step in self.calls.pop(0):
            if isinstance(step, Exception):
                raise step
            yield step

    async def close(self) -> None:
        self.closed += 1


class Heard:
    """What the person at the terminal is told."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        self.trouble: list[str] = []


async def ask(tmp_path, line, script, heard, clock):
    with open_attempt(tmp_path / "kit", line) as attempt:
        return attempt, await ask_to_join(
            attempt,
            on_pending=heard.pending.append,
            on_trouble=heard.trouble.append,
            clock=clock,
            dial=script.dial,
        )


async def test_an_answer_at_once_is_the_end(tmp_path, line):
    script, heard = Script([ISSUED]), Heard()
    _, answer = await ask(tmp_path, line, script, heard, FakeClock(NOW))
    assert (answer.chain_pem, answer.trust.document, answer.contact) == (b"chain", b"d", "ada")
    assert (heard.pending, script.closed) == ([], 1)


async def test_the_fingerprint_that_is_shown_is_the_own_keys_and_shown_once(tmp_path, line):
    script, heard = Script([PENDING, PENDING, ISSUED]), Heard()
    attempt, _ = await ask(tmp_path, line, script, heard, FakeClock(NOW))
    assert heard.pending == [attempt.fingerprint]


async def test_a_wait_that_breaks_goes_on_with_the_same_key(tmp_path, line):
    clock = FakeClock(NOW)
    script = Script(
        [PENDING, ServerUnavailable("gone")], [ServerUnavailable("still gone")], [PENDING], [ISSUED]
    )
    heard = Heard()
    task = asyncio.ensure_future(ask(tmp_path, line, script, heard, clock))
    await clock.elapse(300)
    await task
    assert len(heard.pending) == 1
    said = [reason.partition(", next in ")[0] for reason in heard.trouble]
    assert said == ["gone (try 1", "still gone (try 2", "the server ended the call (try 1"]
    assert script.closed == 4
    assert len({verify_request(request) for request in script.requests}) == 1


async def test_a_server_that_was_never_there_is_not_waited_for(tmp_path, line):
    script = Script([ServerUnavailable("nothing listens")])
    with pytest.raises(ServerUnavailable, match="nothing listens"):
        await ask(tmp_path, line, script, Heard(), FakeClock(NOW))
    assert script.closed == 1


async def test_a_refusal_ends_the_wait(tmp_path, line):
    script = Script([PENDING, IdentityRefused("taken back")])
    with pytest.raises(IdentityRefused, match="taken back"):
        await ask(tmp_path, line, script, Heard(), FakeClock(NOW))


async def test_an_invite_that_expired_is_not_even_sent(tmp_path, line):
    script = Script([ISSUED])
    with pytest.raises(IdentityRefused, match="the invite expired on 2026-01-02") as caught:
        await ask(tmp_path, line, script, Heard(), FakeClock(NOW + timedelta(days=2)))
    assert "flprov invite create clinic" in str(caught.value.hint)
    assert script.requests == []


async def test_a_wait_ends_with_the_invite(tmp_path, line):
    clock = FakeClock(NOW)
    script = Script(*[[PENDING, ServerUnavailable("gone")] for _ in range(4000)])
    task = asyncio.ensure_future(ask(tmp_path, line, script, Heard(), clock))
    await clock.elapse(60)
    clock.jump(2 * 86400)
    await clock.elapse(60)
    with pytest.raises(IdentityRefused, match="the invite expired"):
        await task


async def test_whoever_stops_waiting_hangs_up(tmp_path, line):
    script, clock = Script([PENDING, ServerUnavailable("gone")]), FakeClock(NOW)
    task = asyncio.ensure_future(ask(tmp_path, line, script, Heard(), clock))
    await clock.wait_sleeping()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert script.closed == 1
    with open_attempt(tmp_path / "kit", line) as attempt:  # nobody holds the lock, the key is there
        assert attempt.private_pem
