# SPDX-License-Identifier: Apache-2.0
"""Running the server over the years: drain and stop, clean up, back up and restore, be monitored."""

from flprov.server.operations.operations import Operations
from flprov.server.operations.tally import CountedStore, Tally, metered

__all__ = ["CountedStore", "Operations", "Tally", "metered"]
