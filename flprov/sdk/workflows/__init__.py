# SPDX-License-Identifier: Apache-2.0
"""The algorithms that come with flprov, one short file each; `registry` knows them by their names."""
