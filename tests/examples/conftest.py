# SPDX-License-Identifier: Apache-2.0
"""Fixtures: an app's modules, as its own process would have them."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
from app_runner import ROOT

from flprov.workers.session import use_session

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests" / "sdk"))  # FakePort


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Apps have modules of the same name; a worker's process changes more than it would in its own life."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    handler = signal.getsignal(signal.SIGTERM)
    main = sys.modules["__main__"]
    yield
    signal.signal(signal.SIGTERM, handler)
    sys.modules["__main__"] = main
    use_session(None)
    for path in (ROOT / "examples").rglob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def load_example(own_modules: None) -> Callable[[str], ModuleType]:
    """`load_example("heart/patients")` is that module of that app."""

    def load(name: str) -> ModuleType:
        app, _, module = name.rpartition("/")
        sys.path.insert(0, str(ROOT / "examples" / app))
        return importlib.import_module(module)

    return load
