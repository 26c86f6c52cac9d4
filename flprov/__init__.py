# SPDX-License-Identifier: Apache-2.0
"""flprov provisions, starts and operates federated-learning networks, and runs the jobs on them."""

__version__ = "0.1.0"
