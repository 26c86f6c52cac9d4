# SPDX-License-Identifier: Apache-2.0
"""The jobs of a server: submitted, scheduled, run round by round, ended, looked up."""
