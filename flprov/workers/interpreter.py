# SPDX-License-Identifier: Apache-2.0
"""Interpreters: which folders a Python needs to read in order to run and import."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

from flprov.errors import LocalError

# What an installation keeps below its prefix. Not the prefix itself: an environment made in a home
# folder would open the home, and the kits in it, to every job.
_BELOW_PREFIX = ["bin", "etc", "include", "lib", "lib32", "lib64", "libexec", "pyvenv.cfg", "share", "ssl"]
_PROBE = """
import json, site, sys, sysconfig
names = "stdlib", "platstdlib", "purelib", "platlib"
folders = [sysconfig.get_paths()[name] for name in names] + site.getsitepackages()
prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
print(json.dumps({"folders": folders, "prefixes": prefixes}))
"""


def interpreter_folders(program: Path) -> tuple[Path, ...]:
    """What must be readable for `program` to run: its library, its packages, those of its base.

    Asks the interpreter itself, once per program and version of it. Which of them are there is another
    matter: packages come and go.

    Raises:
        LocalError: it is not there, or it does not run.
    """
    try:
        wanted = _ask(program, program.stat().st_mtime_ns)
        return tuple(path for path in wanted if path.exists())
    except OSError as error:
        raise _broken(program, error.strerror or "cannot be read") from error


@functools.lru_cache(maxsize=64)
def _ask(program: Path, _changed: int) -> tuple[Path, ...]:
    command = [str(program), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=True, cwd="/", env={})
        answer = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise _broken(program, "did not answer as a Python does") from error
    wanted = {Path(folder) for folder in answer["folders"]}
    wanted |= {Path(prefix) / name for prefix in answer["prefixes"] for name in _BELOW_PREFIX}
    return tuple(sorted(wanted))


def _broken(program: Path, what: str) -> LocalError:
    return LocalError(
        f"the interpreter {program} {what}", hint="name another one under `python` in the site's site.yml"
    )
