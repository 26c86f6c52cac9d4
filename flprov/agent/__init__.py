# SPDX-License-Identifier: Apache-2.0
"""The agent: a site's long-running process. It dials out only, and has the last word at its site."""

from flprov.agent.agent import Agent
from flprov.agent.config import AgentConfig, load_agent_config

__all__ = ["Agent", "AgentConfig", "load_agent_config"]
