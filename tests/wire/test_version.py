# SPDX-License-Identifier: Apache-2.0
"""The protocol version has a dated history, and a mismatch says who has to upgrade."""

from __future__ import annotations

import re
from datetime import date

import pytest

from flprov.errors import ProtocolError
from flprov.wire import OLDEST, PROTOCOL, pb, verify_protocol, version


def history() -> list[tuple[int, date, str]]:
    rows = re.findall(r"^ {4}(\d+) {2}(\d{4}-\d\d-\d\d) {2}(\S.*)$", version.__doc__, re.MULTILINE)
    return [(int(number), date.fromisoformat(day), text) for number, day, text in rows]


def test_newest_line_of_the_history_is_the_protocol():
    assert history()[-1][0] == PROTOCOL


def test_history_counts_from_one_without_a_gap_and_goes_forward_in_time():
    assert [row[0] for row in history()] == list(range(1, PROTOCOL + 1))
    assert [row[1] for row in history()] == sorted(row[1] for row in history())


def test_the_one_before_the_newest_is_spoken_too():
    assert OLDEST in (PROTOCOL, PROTOCOL - 1)
    assert OLDEST >= 1


def test_version_fits_into_the_messages_that_carry_it():
    assert pb.Hello(protocol=PROTOCOL).protocol == pb.Welcome(protocol=PROTOCOL).protocol == PROTOCOL


@pytest.mark.parametrize("spoken", range(OLDEST, PROTOCOL + 1))
def test_spoken_versions_pass(spoken):
    assert verify_protocol(spoken, peer="site-a") == spoken


def test_older_peer_is_told_to_upgrade():
    with pytest.raises(
        ProtocolError, match=rf"^site-a speaks protocol {OLDEST - 1}; this flprov speaks"
    ) as e:
        verify_protocol(OLDEST - 1, peer="site-a")
    assert e.value.hint == "upgrade flprov at site-a"


def test_newer_peer_means_that_we_upgrade():
    with pytest.raises(ProtocolError, match=f"{PROTOCOL + 1}; this flprov speaks") as caught:
        verify_protocol(PROTOCOL + 1, peer="the server")
    assert caught.value.hint == "upgrade this flprov"


def test_server_names_itself_to_the_reader_at_the_other_end():
    with pytest.raises(ProtocolError, match="; the server speaks") as caught:
        verify_protocol(PROTOCOL + 1, peer="site-a", local="the server")
    assert caught.value.hint == "upgrade the server"
