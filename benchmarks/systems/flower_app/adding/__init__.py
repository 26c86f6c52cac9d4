# SPDX-License-Identifier: Apache-2.0
"""The workload as a Flower app: `server`, `client`, and `simulate` for its simulation."""
