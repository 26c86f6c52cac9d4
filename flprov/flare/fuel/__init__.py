# SPDX-License-Identifier: Apache-2.0
"""FLARE's `nvflare.fuel`, as far as jobs import from it."""
