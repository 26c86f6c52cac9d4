# SPDX-License-Identifier: Apache-2.0
"""A job's rounds as at a server, for sites on this machine, without a network: what the simulator drives."""
