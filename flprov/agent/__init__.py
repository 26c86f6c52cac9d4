# SPDX-License-Identifier: Apache-2.0
"""The agent: a site's long-running process. It dials out only, and has the last word at its site."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.agent.config import AgentConfig, load_agent_config

if TYPE_CHECKING:
    from flprov.agent.agent import Agent
    from flprov.agent.enrolment import ask_to_join, is_refused
    from flprov.agent.vitals import read_gpus

__all__ = ["Agent", "AgentConfig", "ask_to_join", "is_refused", "load_agent_config", "read_gpus"]

_LATE = {"Agent": "agent", "ask_to_join": "enrolment", "is_refused": "enrolment", "read_gpus": "vitals"}

__getattr__ = lazy_names(__name__, _LATE)
