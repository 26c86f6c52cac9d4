# SPDX-License-Identifier: Apache-2.0
"""Where the logs of simulated sites lie, for the process that writes them and for who collects them."""

SEAT_LOGS = "logs"  # in the folder out/: one file per site that has printed something
