# SPDX-License-Identifier: Apache-2.0
"""Texts of exceptions for log lines. What leaves a site is decided by its own policy, not by a variable."""

from __future__ import annotations

import logging
import traceback


def secure_format_exception(e: BaseException) -> str:
    """`TypeError: what it says`."""
    return f"{type(e).__name__}: {e}"


def secure_format_traceback() -> str:
    """The traceback of the exception that is being handled."""
    return traceback.format_exc()


def secure_log_traceback(logger: logging.Logger | None = None) -> None:
    """Log it as an error."""
    (logger or logging.getLogger()).error(secure_format_traceback())
