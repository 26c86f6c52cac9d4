# SPDX-License-Identifier: Apache-2.0
"""Between FLARE's shapes and ours: what the adapters under FLARE's names stand on."""
