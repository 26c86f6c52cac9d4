# SPDX-License-Identifier: Apache-2.0
"""What people see: documents made from records, sessions and runs. Nothing here changes anything."""
