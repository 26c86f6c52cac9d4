# SPDX-License-Identifier: Apache-2.0
"""Shared by the tests of the store."""

import pytest

pytest.register_assert_rewrite("flprov.testing.store_conformance")
