# SPDX-License-Identifier: Apache-2.0
"""Code written for FLARE, with `nvflare` replaced in its import lines and nothing else."""

import importlib
import re
import sys
from pathlib import Path

import pytest

WRITTEN = Path(__file__).parent / "written_for_flare"


def migrate(folder):
    """Put the files into `folder` as the page says: sed on import lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in WRITTEN.glob("*.py"):
        text = re.sub(r"(?m)^(\s*(?:from|import)\s+)nvflare\b", r"\1flprov.flare", path.read_text())
        (folder / path.name).write_text(text)
    return folder


@pytest.fixture
def migrated(tmp_path, monkeypatch):
    """import_migrated("hello_trainer") -> the module; forgotten afterwards."""
    folder = migrate(tmp_path / "migrated")
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)
