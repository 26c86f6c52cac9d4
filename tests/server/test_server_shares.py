# SPDX-License-Identifier: Apache-2.0
"""What each of several senders may have on the way."""

from __future__ import annotations

import contextlib

from flprov.server.shares import Shares

MB = 1 << 20


def test_one_sender_has_all_of_it_and_of_many_each_a_share():
    shares = Shares()
    assert shares.each == 32 * MB
    with contextlib.ExitStack() as open_:
        for number in range(32):
            open_.enter_context(shares.sending(f"site-{number}"))
        assert shares.each == MB
    assert shares.each == 32 * MB


def test_a_site_that_opens_many_calls_takes_nothing_from_the_others():
    shares = Shares()
    with contextlib.ExitStack() as open_:
        for _ in range(64):
            open_.enter_context(shares.sending("site-1"))
        with shares.sending("site-2"):
            assert shares.each == 16 * MB
    assert shares.each == 32 * MB


def test_of_very_many_each_has_enough_to_go_on():
    shares = Shares()
    with contextlib.ExitStack() as open_:
        for number in range(10_000):
            open_.enter_context(shares.sending(f"site-{number}"))
        assert shares.each == 64 << 10
