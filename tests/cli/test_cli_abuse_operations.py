# SPDX-License-Identifier: Apache-2.0
"""Words of a server or a site that would drive the terminal of whoever reads them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from flprov.cli.filters import describe_row
from flprov.cli.output import json_text, print_json
from flprov.cli.running import _Lines
from flprov.wire.documents import EventDocument

EVIL = "\x1b]0;mine\x07\x9b2J\u202eexe\u2066\U000e0041\x7fé日\n"


def event(**words: str) -> EventDocument:
    found = {
        "who": "server",
        "what": "job.start",
        "object": "0job",
        "outcome": "failed",
        "reason": "",
    } | words
    return EventDocument(index=1, at=datetime(2026, 11, 22, tzinfo=UTC), data={"said": EVIL}, **found)


@pytest.mark.parametrize("name", ["who", "what", "object", "outcome", "reason"])
def test_no_part_of_a_row_drives_the_terminal(name):
    assert describe_row(event(**{name: EVIL})).replace("\x1b[31m", "").replace("\x1b[0m", "").isprintable()


def test_json_is_the_same_document_and_drives_no_terminal(capsys):
    found = event(reason=EVIL)
    text = json_text(found)
    assert text.isprintable()
    assert json.loads(text)["reason"] == json.loads(text)["data"]["said"] == EVIL
    assert "é日" in text
    print_json(found)
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads(text)
    assert printed.replace("\n", "").isprintable()


def test_error_with_a_peer_s_words_is_logged_without_what_drives_a_terminal():
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s", (EVIL,), sys.exc_info())
    found = _Lines("%(message)s").format(record)
    assert "ValueError" in found
    assert found.replace("\n", "").replace("\t", "").isprintable()
