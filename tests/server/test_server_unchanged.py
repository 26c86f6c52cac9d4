# SPDX-License-Identifier: Apache-2.0
"""A site may name as a base only what it was given."""

from __future__ import annotations

import pytest
from server_network import ALONE, trained

from flprov.blobs import digest_of
from flprov.errors import PermissionRefused
from flprov.rpc import methods as m
from flprov.wire import pb

STRANGER = digest_of(b"another site's model")


async def test_a_site_that_names_a_base_it_was_never_given_is_refused(world, dial):
    site = dial("site-1")
    await site.open()
    run, _ = await trained(world, site, spec=ALONE)
    run.rounds.drop()  # the round is closed: what it gave is known
    same = [pb.SameBytes(offset=0, size=3)]
    with pytest.raises(PermissionRefused, match="has never given"):
        await site.send(b"update", base=STRANGER, same=same)
    request = pb.CompareRequest(digest=run.record.app, base=STRANGER, job_id=run.record.id)
    with pytest.raises(PermissionRefused, match="has never given"):
        await site.connection.unary(m.COMPARE_BLOB, request)


async def test_after_a_restart_nobody_knows_and_everything_is_sent(world, dial):
    site = dial("site-1")
    await site.open()
    await trained(world, site, spec=ALONE)
    replies = await site.send(b"update", base=STRANGER, same=[pb.SameBytes(offset=0, size=3)])
    assert (replies[0].whole, replies[-1].complete) == (True, True)
