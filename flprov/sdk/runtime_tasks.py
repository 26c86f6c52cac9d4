# SPDX-License-Identifier: Apache-2.0
"""Tasks that our own code does at a site, whatever job.yml names: their names begin with "flprov."."""

from __future__ import annotations

from collections.abc import Mapping

# Task name -> "module:function" of ours, `(task, site) -> Update`; imported when such a task comes.
RUNTIME_TASKS: Mapping[str, str] = {}
