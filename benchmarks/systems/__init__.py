# SPDX-License-Identifier: Apache-2.0
"""flprov and its peers behind one seam, so that each row of the benchmark is measured the same way on all."""
