# SPDX-License-Identifier: Apache-2.0
"""The model that a job starts from: `model` in job.yml, a file or a callable, to tensors."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flprov.errors import ConfigError
from flprov.messages import Tensors
from flprov.sdk.arrays import as_tensors, is_torch
from flprov.sdk.entries import load_entry
from flprov.wire import read_metadata, read_tensors

TORCH = "pt"  # the value of "format" that torch's users write; safetensors' own convention


def load_model(model: str, app: Path, seed: int = 0) -> tuple[Tensors, str]:
    """The tensors that `model` names, and their format: "pt" when they are torch's, else empty.

    A callable is called without arguments, with Python's, numpy's and torch's random numbers seeded: the
    same app and `seed` start from the same weights, also when a crash repeats the start.
    It gives a torch module (or whatever has a `state_dict`) or a mapping from name to array.

    Raises:
        ConfigError: there is no such file or callable, or it gives something else.
    """
    if model.endswith(".safetensors"):
        return _read_file(model, app)
    maker = load_entry(model, "model")
    if not callable(maker):
        raise ConfigError(f"model: {model} is a {type(maker).__name__}, not something to call")
    _seed(seed)
    made: object = maker()
    if callable(getattr(made, "state_dict", None)):
        made = made.state_dict()  # type: ignore[attr-defined]
    if not isinstance(made, Mapping):
        raise ConfigError(
            f"model: {model} gave a {type(made).__name__}",
            hint="let it return a torch module, or a mapping from name to array",
        )
    return as_tensors(made), TORCH if any(is_torch(value) for value in made.values()) else ""


def _read_file(model: str, app: Path) -> tuple[Tensors, str]:
    path = (app / model).resolve()
    if not path.is_relative_to(app.resolve()) or not path.is_file():
        raise ConfigError(f"model: no file {model!r} in the app")
    return read_tensors(path), read_metadata(path).get("format", "")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")  # whatever calls torch has imported it by now
    if torch is not None:
        torch.manual_seed(seed)
