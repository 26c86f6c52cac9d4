# SPDX-License-Identifier: Apache-2.0
"""Log lines of server and agent: what a peer says in one cannot look like another one."""

from __future__ import annotations

import logging

from cli_admin import BEEP

from flprov.cli.running import log_handler


def test_a_message_with_somebody_elses_words_is_one_entry_without_control_characters():
    said = f"{BEEP}\n2026-01-01 00:00:00 INFO    flprov.agent: the server was verified"
    record = logging.LogRecord("flprov.agent", logging.INFO, "", 0, "it asks: %s", (said,), None)
    first, *rest = log_handler().format(record).split("\n")
    assert "it asks: " in first
    assert "\x1b" not in first
    assert all(line.startswith("    ") for line in rest)


def test_a_traceback_stays_readable():
    try:
        raise ValueError("odd")
    except ValueError as error:
        record = logging.LogRecord("flprov", logging.ERROR, "", 0, "failed", (), (ValueError, error, None))
    assert log_handler().format(record).endswith("failed\nValueError: odd")
