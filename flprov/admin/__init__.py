# SPDX-License-Identifier: Apache-2.0
"""What a person's programs use: the typed client beneath the commands and the console."""

from flprov.admin.client import Admin, LogText, open_admin
from flprov.admin.plots import draw_metrics

__all__ = ["Admin", "LogText", "draw_metrics", "open_admin"]
