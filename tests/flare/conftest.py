# SPDX-License-Identifier: Apache-2.0
"""Code written for FLARE, with `nvflare` replaced in its import lines and nothing else."""

import importlib
import sys

import pytest
from flare_jobs import migrate


@pytest.fixture
def migrated(tmp_path, monkeypatch):
    """migrated("hello_trainer") -> the module; forgotten afterwards."""
    folder = migrate(tmp_path / "migrated")
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)
