# SPDX-License-Identifier: Apache-2.0
"""The in-process transport, for tests: see flprov.rpc.inprocess."""

from flprov.rpc import InProcessNetwork

__all__ = ["InProcessNetwork"]
