# SPDX-License-Identifier: Apache-2.0
"""What a process of its own would keep for a site, kept apart for each of many sites in one process.

That is what the app's own modules hold (`DATA = None` at the top of train.py, filled by the first task), and
where the random number generators are. Modules of packages are shared, as is all that they hold.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


class AppModules:
    """Finds modules as Python does, and notes which of them are the app's. Put it into `sys.meta_path`."""

    def __init__(self, app: Path) -> None:
        self._inside = f"{app}/"
        self._names: dict[str, None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        places = [spec.origin or "", *(f"{place}/" for place in spec.submodule_search_locations or ())]
        if not any(place.startswith(self._inside) for place in places):
            return None
        self._names[name] = None
        return spec

    def take_away(self) -> dict[str, ModuleType]:
        """Forget the app's modules, as if none had been imported; they are the caller's now."""
        return {name: sys.modules.pop(name) for name in self._names if name in sys.modules}


class Generators:
    """Where the generators of this process are, for one site after the other.

    Most tasks have one of their own and leave these alone. To look whether they have moved takes a fifth of
    putting them back, so that is done for those sites alone that have used them.
    """

    def __init__(self) -> None:
        self._at: dict[str, Any] | None = None  # what a site that has not used them finds; None: that is gone

    def put(self, states: dict[str, Any] | None) -> None:
        """As a site has left them; None: as they are in a new process. All who use none may find the same."""
        if states is not None:
            self._at = None
            _put_generators(states)
        elif self._at is None:
            _renew_generators()
            self._at = _read_generators()

    def take(self) -> dict[str, Any] | None:
        """For the site's next `put`: how it has left them; None: it has used none so far."""
        now = _read_generators()
        if self._at is not None and _are_same(now, self._at):
            return None
        self._at = None
        version, numbers, following = now["random"]
        now["random"] = (version, np.array(numbers, dtype=np.uint32), following)  # a tenth of the memory
        return now


class Belongings:
    """One site's."""

    def __init__(self, modules: AppModules, generators: Generators) -> None:
        self._app = modules
        self._shared = generators
        self._modules: dict[str, ModuleType] = {}
        self._generators: dict[str, Any] | None = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, everything is where this site has left it."""
        sys.modules.update(self._modules)
        self._shared.put(self._generators)
        try:
            yield
        finally:
            self._generators = self._shared.take()
            self._modules = self._app.take_away()


def _put_generators(states: dict[str, Any]) -> None:
    version, numbers, following = states["random"]
    random.setstate((version, tuple(numbers.tolist()), following))
    np.random.set_state(states["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_rng_state(states.get("torch", torch.Generator().get_state()))
        if "cuda" in states:
            torch.cuda.set_rng_state_all(states["cuda"])


def _renew_generators() -> None:
    """As in a new process: torch's are always the same there."""
    random.seed()
    np.random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_rng_state(torch.Generator().get_state())


def _read_generators() -> dict[str, Any]:
    states: dict[str, Any] = {"random": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _are_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.keys() != other.keys() or "cuda" in one or one["random"] != other["random"]:
        return False
    if "torch" in one and not one["torch"].equal(other["torch"]):
        return False
    (_, numbers, *rest), (_, others, *last) = one["numpy"], other["numpy"]
    return rest == last and np.array_equal(numbers, others)
