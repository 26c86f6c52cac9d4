# SPDX-License-Identifier: Apache-2.0
"""FLARE's `nvflare.fuel.utils`, as far as jobs import from it."""
