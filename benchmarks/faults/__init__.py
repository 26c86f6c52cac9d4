# SPDX-License-Identifier: Apache-2.0
"""The fault campaign: what breaks is broken on purpose, recorded, and checked afterwards."""
