# SPDX-License-Identifier: Apache-2.0
"""FLARE's `nvflare.app_common.np`."""
