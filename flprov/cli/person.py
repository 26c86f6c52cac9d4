# SPDX-License-Identifier: Apache-2.0
"""Whose machine account this is. In a container neither a name nor a home folder goes without saying."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from flprov.errors import Misuse


def login_name() -> str:
    """The name of this user; the number, where the machine has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        return str(os.getuid())


def home_folder() -> Path:
    """This user's home. Raises Misuse where nothing says where it is."""
    try:
        return Path.home()
    except RuntimeError:
        raise Misuse("nothing says where this user's home folder is", hint="set HOME") from None
