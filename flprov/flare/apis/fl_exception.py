# SPDX-License-Identifier: Apache-2.0
"""Exceptions that code written for FLARE raises and catches."""

from __future__ import annotations


class TaskExecutionError(Exception):
    """A learner cannot go on with its task."""


class UnsafeJobError(Exception):
    """The job must not run here."""


class UnsafeComponentError(Exception):
    """A component must not run here."""
