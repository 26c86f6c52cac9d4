# SPDX-License-Identifier: Apache-2.0
"""The scripts that make generated files are tested like modules."""

import sys

from house_tree import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
