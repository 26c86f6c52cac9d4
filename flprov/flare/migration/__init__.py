# SPDX-License-Identifier: Apache-2.0
"""A FLARE job folder to an app: `flprov app from-flare`."""
