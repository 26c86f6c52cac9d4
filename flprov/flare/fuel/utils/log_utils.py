# SPDX-License-Identifier: Apache-2.0
"""Headings in a log."""

from __future__ import annotations


def center_message(message: str, boarder_str: str = "=", line_length: int = 80) -> str:
    """`message` between two rules of a line's length."""
    rule = (boarder_str * line_length)[:line_length]
    return f"\n{rule}\n{message:^{line_length}}\n{rule}"
