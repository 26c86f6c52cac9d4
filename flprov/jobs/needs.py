# SPDX-License-Identifier: Apache-2.0
"""Whether a machine has the packages that a job needs. Nothing is ever installed, nothing imported.

`needs` are PEP 508 requirements; extras are not looked into, and `python` is the interpreter itself.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flprov._base import from_document, parse_json
from flprov.config import shown
from flprov.errors import LocalError, Misuse
from flprov.jobs.job import JobSpec

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The extra of flprov that brings them, see pyproject.toml: pip install 'flprov[he]'.
_OF_WORKFLOW = {"fedavg_he": ("tenseal>=0.3.14",)}

_TIMEOUT = 60.0  # an interpreter on a slow network disk takes tens of seconds

# Runs in the interpreter that the site gives to jobs, which need not have `packaging` or flprov.
_SURVEY = """
import importlib.metadata as metadata, json, os, platform, sys

def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

json.dump({
    "python": platform.python_version(),
    "versions": {name: version(name) for name in sys.argv[1:]},
    "markers": {
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    },
}, sys.stdout)
"""


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What an interpreter has."""

    python: str
    versions: Mapping[str, str | None]  # None: not installed
    markers: Mapping[str, str]  # PEP 508 environment markers


def job_needs(spec: JobSpec) -> tuple[str, ...]:
    """What a job needs at each of its sites: what job.yml says, and what its workflow takes besides."""
    return (*spec.needs, *_OF_WORKFLOW.get(spec.workflow.type or "", ()))


def check_needs(needs: Sequence[str], python: Path | None = None) -> tuple[str, ...]:
    """What is missing of `needs`, in words: `needs torch>=2.4, found none`. Empty: all is there.

    Blocks for up to a minute when another interpreter has to be asked.

    Args:
        needs: requirements as in job.yml.
        python: the interpreter that jobs get; None: the one that runs this.

    Raises:
        Misuse: one of the needs is no requirement.
        LocalError: the interpreter cannot be run.
    """
    requirements = [_parse(text) for text in needs]
    if not requirements:
        return ()
    names = sorted({requirement.name for requirement in requirements})
    own = python is None or str(python) == sys.executable  # unresolved: a venv's python is a link
    survey = _survey_here(names) if own or python is None else _survey_other(python, names)
    return tuple(problem for requirement in requirements for problem in _unmet(requirement, survey))


def _parse(text: str) -> Requirement:
    from packaging.requirements import InvalidRequirement, Requirement  # late: most jobs need nothing

    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise Misuse(f"{shown(text)} is not a requirement as pip takes it") from error


def _unmet(requirement: Requirement, survey: _Survey) -> Iterable[str]:
    wanted = f"needs {requirement.name}{requirement.specifier}"
    try:
        if requirement.marker is not None and not requirement.marker.evaluate(dict(survey.markers)):
            return
    except (ValueError, LookupError):  # no comparison, no such name, or a version that is none
        yield f"{wanted} if {requirement.marker}, which cannot be decided here"
        return
    found = survey.python if requirement.name.lower() == "python" else survey.versions.get(requirement.name)
    if found is None:
        yield f"{wanted}, found none"
        return
    from packaging.version import InvalidVersion, Version  # as above

    try:
        version = Version(found)
    except InvalidVersion:
        yield f"{wanted}, found {shown(found)}, which is no version"
        return
    if not requirement.specifier.contains(version, prereleases=True):
        yield f"{wanted}, found {found}"


def _survey_here(names: Sequence[str]) -> _Survey:
    from packaging.markers import default_environment  # as above

    markers = {key: str(value) for key, value in default_environment().items()}
    versions = {name: _version_here(name) for name in names}
    return _Survey(python=platform.python_version(), versions=versions, markers=markers)


def _version_here(name: str) -> str | None:
    import importlib.metadata  # as above

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _survey_other(python: Path, names: Sequence[str]) -> _Survey:
    command = [str(python), "-I", "-c", _SURVEY, *names]
    hint = "`python` in site.yml must be a working interpreter"
    try:
        done = subprocess.run(  # -I: neither the environment nor the current folder has a say
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=True
        )
        return from_document(_Survey, parse_json(done.stdout))
    except subprocess.TimeoutExpired as error:
        raise LocalError(f"{python} did not answer within {_TIMEOUT:.0f} s", hint=hint) from error
    except subprocess.CalledProcessError as error:
        raise LocalError(f"{python} ended with exit code {error.returncode}", hint=hint) from error
    except OSError as error:
        raise LocalError(f"{python} cannot be run: {error.strerror}", hint=hint) from error
    except (ValueError, json.JSONDecodeError) as error:
        raise LocalError(f"{python} did not answer as a Python interpreter does", hint=hint) from error
