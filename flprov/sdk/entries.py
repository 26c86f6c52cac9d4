# SPDX-License-Identifier: Apache-2.0
"""Entry points of an app, `module:attribute`. Resolved in a worker only, with the app on sys.path."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

from flprov.errors import ConfigError
from flprov.sdk.options import suggest

_ENTRY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)", re.ASCII)


def is_entry(text: str) -> bool:
    """Whether `text` is spelled `module:attribute`; otherwise it should be a file."""
    return _ENTRY.fullmatch(text) is not None


def split_entry(text: str, where: str) -> tuple[str, str]:
    """Module and attribute of the entry `text`, which stands in job.yml at `where`.

    Raises:
        ConfigError: it is not spelled `module:attribute`.
    """
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: {text!r} is not of the form module:attribute")
    return match["module"], match["attribute"]


def load_entry(text: str, where: str) -> object:
    """What the entry `text` names. Errors inside the imported module pass through as they are.

    Raises:
        ConfigError: there is no such module or attribute.
    """
    name, attribute = split_entry(text, where)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise  # the module is there; something that it imports is not
        raise ConfigError(f"{where}: no module {error.name!r} in the app") from error
    return pick_attribute(module, attribute, where)


def pick_attribute(module: ModuleType, attribute: str, where: str) -> object:
    """`module.attribute`, or a ConfigError that says where it was looked for."""
    try:
        return getattr(module, attribute)
    except AttributeError:
        file = getattr(module, "__file__", None) or "built in"
        public = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{where}: no {attribute!r} in {module.__name__} ({file}){suggest(attribute, public)}"
        ) from None
