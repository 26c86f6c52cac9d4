# SPDX-License-Identifier: Apache-2.0
"""What the site has and allows: site.yml, its datasets, its interpreter for jobs, policy.yml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from flprov import __version__
from flprov.doctor.patient import Patient
from flprov.doctor.rows import Rows, from_error, ok, problem, warning
from flprov.errors import FlprovError
from flprov.policy import SitePolicy, SiteSettings, load_policy, load_site_settings
from flprov.wire.documents import DoctorRow

_PATIENCE = 8.0  # seconds for the interpreter; a cold one on a slow disk takes two
_SURVEY = """
import importlib.metadata, json, platform
found = {}
for name in ("flprov", "torch", "numpy"):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps({"python": platform.python_version(), **found}))
"""


def check_settings(patient: Patient) -> Rows:
    """site.yml, and each dataset that it names."""
    path = patient.kit.local / "site.yml"
    try:
        settings = load_site_settings(path)
    except FlprovError as error:
        return (from_error("site.yml", error),)
    if not settings.datasets:
        if path.exists():  # never the sample over what is written there
            missing, advice = "names no datasets", "name them under `datasets` in it"
        else:
            missing, advice = "is not there", f"{_copy_sample(patient, path)}  # and name your data in it"
        return (warning("site.yml", f"{path} {missing}: jobs that ask for data are refused", advice),)
    count = len(settings.datasets)
    text = f"{path}: {count} {'dataset' if count == 1 else 'datasets'}"
    return (ok("site.yml", text), *(_check_dataset(name, at) for name, at in settings.datasets.items()))


def _copy_sample(patient: Patient, path: Path) -> str:
    return f"install -D -m 600 {patient.kit.folder / path.name}.sample {path}"


def _check_dataset(name: str, path: Path) -> DoctorRow:
    try:
        what = "a folder" if path.is_dir() else "a file"
        path.stat()
        rights = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
        if not os.access(path, rights):
            advice = f"let user {os.geteuid()} read it, or correct the path in site.yml"
            return problem("dataset", f"{path} cannot be read by this user", advice, subject=name)
        if path.is_dir() and not any(path.iterdir()):
            return warning("dataset", f"{path} is an empty folder", "is it mounted?", subject=name)
    except FileNotFoundError:
        return problem("dataset", f"{path} is not there", "correct the path in site.yml", subject=name)
    except OSError as error:
        return problem("dataset", f"{path}: {error.strerror}", "is it mounted?", subject=name)
    return ok("dataset", f"{path}, {what}", subject=name)


def check_policy(patient: Patient) -> Rows:
    """policy.yml, and what it comes to."""
    path = patient.kit.local / "policy.yml"
    try:
        policy = load_policy(path)
    except FlprovError as error:
        return (from_error("policy.yml", error),)
    if not policy.exists:
        text = f"there is no {path}, so nobody's jobs run here: that is the default"
        return (warning("policy.yml", text, _copy_sample(patient, path)),)
    if not (policy.organisations or policy.people):
        text = f"{path} allows nobody, so no jobs run here"
        return (warning("policy.yml", text, "name organisations or people under `allow`"),)
    text = _describe_policy(policy)
    if policy.unconfined:
        text = f"{text}; job code runs even where it cannot be confined"
        return (warning("policy.yml", text, "take `unconfined` out if this machine can confine jobs"),)
    return (ok("policy.yml", text),)


def _describe_policy(policy: SitePolicy) -> str:
    whose = []
    if policy.organisations:
        whose.append(f"everybody of {', '.join(sorted(policy.organisations))}")
    if policy.people:
        whose.append(", ".join(sorted(policy.people)))
    most = policy.ceilings
    bounds = [
        f"{most.gpus} gpus" if most.gpus is not None else "",
        f"{most.cpus} cpus" if most.cpus is not None else "",
        f"{most.memory / 2**30:.3g} GiB of memory" if most.memory is not None else "",
    ]
    ceilings = ", ".join(bound for bound in bounds if bound) or "no ceilings"
    jobs = "" if most.jobs is None else f", {most.jobs} jobs at a time"
    return f"allows jobs of {' and of '.join(whose)}; {ceilings}{jobs}{_describe_filters(policy)}"


def _describe_filters(policy: SitePolicy) -> str:
    refused = f"refuses tasks {', '.join(sorted(policy.refused_tasks))}" if policy.refused_tasks else ""
    return "".join(f"; {line}" for line in (policy.filters.in_words, refused) if line)


def check_interpreter(patient: Patient) -> Rows:
    """The Python that runs jobs: that it starts, has flprov, and which PyTorch it has."""
    try:
        settings = load_site_settings(patient.kit.local / "site.yml")
    except FlprovError:
        settings = SiteSettings(source=patient.kit.local / "site.yml")  # its own row says what is wrong
    python = settings.python or Path(sys.executable)
    try:
        answer = subprocess.run(
            [python, "-I", "-c", _SURVEY],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
            env={"LANG": "C.UTF-8"},  # as for jobs: nothing of ours, which may hold a proxy's password
        )
        found = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        return (problem("packages", f"{python} does not answer within {_PATIENCE:g} s", _INTERPRETER),)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it does not run as a Python"
        return (problem("packages", f"{python}: {reason}", _INTERPRETER),)
    torch = f"torch {found['torch']}" if found["torch"] else "no torch"
    text = f"jobs run by {python}: Python {found['python']}, {torch}"
    if not found["flprov"]:
        return (problem("packages", f"{text}, and no flprov", f"{python} -m pip install flprov"),)
    if found["flprov"] != __version__:
        text = f"{text}, flprov {found['flprov']}, and the agent is {__version__}"
        return (warning("packages", text, f"{python} -m pip install flprov=={__version__}"),)
    return (ok("packages", f"{text}, flprov {found['flprov']}"),)


_INTERPRETER = "correct `python` in site.yml: an interpreter in whose environment flprov is installed"
