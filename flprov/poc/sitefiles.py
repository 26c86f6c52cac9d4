# SPDX-License-Identifier: Apache-2.0
"""A site's own files, `policy.yml` and `site.yml`, as a trial network writes them: permissive."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flprov._base import write_atomic
from flprov.config import WARM
from flprov.errors import Conflict, Misuse, NotFound
from flprov.policy import METRICS, SiteSettings, load_site_settings

_DATASET = re.compile(r"(?:(?P<site>[a-z0-9._-]+):)?(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,62})=(?P<path>.+)")
_TRIAL = "# Written by `flprov poc up` for trials on this machine."
_FREE_PORT = "127.0.0.1:0"  # many sites share this machine; `flprov poc status` says which it became


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Data that a site, or every site, is to have."""

    name: str
    path: Path  # absolute
    site: str | None = None  # None: every site


def parse_dataset(text: str) -> Dataset:
    """What `--dataset` takes: `name=/path` for every site, `site-1:name=/path` for one.

    Raises:
        Misuse: it is neither.
        NotFound: there is nothing at the path.
    """
    found = _DATASET.fullmatch(text)
    if found is None:
        raise Misuse(
            f"--dataset takes name=/path or site:name=/path, not {text!r}",
            hint="for example: --dataset heart=/data/heart --dataset site-2:heart=/data/other",
        )
    path = Path(found["path"]).expanduser().absolute()
    if not path.exists():
        raise NotFound(f"dataset {found['name']}: there is nothing at {path}")
    return Dataset(name=found["name"], path=path, site=found["site"])


def write_policy(path: Path, *, organisations: Sequence[str], unconfined: bool) -> bool:
    """A policy that lets everybody of the project run jobs, unless there is one. True if it was written."""
    if path.exists():
        return False
    lines = [
        _TRIAL,
        "# It allows everybody of the project to run any job here. Not for real patients' data.",
        f"allow: {{organisations: {json.dumps(list(organisations))}}}",
    ]
    if unconfined:
        lines += ["# This machine cannot confine job code: no Landlock and no working bubblewrap."]
        lines += ["unconfined: true"]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())
    return True


def write_settings(path: Path, datasets: Mapping[str, Path], *, warm: tuple[str, ...] = WARM) -> bool:
    """`site.yml` with these datasets, beside those that it names already. True if it was written.

    Args:
        path: of the file.
        datasets: what the site is to have.
        warm: what is imported ahead of jobs, in a new file.

    Raises:
        Conflict: somebody has edited the file, and it would have to change.
    """
    if not path.exists():
        settings = SiteSettings(source=path, datasets=datasets, metrics=_FREE_PORT, warm=warm)
        write_atomic(path, _render(settings))
        return True
    found = load_site_settings(path)
    if all(found.datasets.get(name) == target for name, target in datasets.items()):
        return False
    if path.read_bytes() != _render(found):
        lines = "; ".join(_line(name, target) for name, target in datasets.items())
        raise Conflict(
            f"{path} was edited, so it is left as it is", hint=f"add under `datasets` in it: {lines}"
        )
    wanted = {**found.datasets, **datasets}
    write_atomic(path, _render(replace(found, datasets=wanted)))
    return True


def write_server_settings(path: Path) -> bool:
    """`server.yml`, unless there is one. True if it was written."""
    if path.exists():
        return False
    write_atomic(path, f"{_TRIAL}\nmetrics: {_FREE_PORT}\n".encode())
    return True


def _render(settings: SiteSettings) -> bytes:
    lines = [_TRIAL, "# Names for data: a job that asks for one gets the path, to read."]
    if settings.datasets:
        lines += [
            "datasets:",
            *(f"  {_line(name, path)}" for name, path in sorted(settings.datasets.items())),
        ]
    else:
        lines += ["datasets: {}", "  # heart: /data/heart"]
    if settings.metrics != METRICS:
        lines += [f"metrics: {settings.metrics}"]
    if settings.warm is not None and settings.warm != WARM:
        lines += [f"warm: {json.dumps(settings.warm)}"]
    return "".join(f"{line}\n" for line in lines).encode()


def _line(name: str, path: Path) -> str:
    """In double quotes: JSON's strings are YAML's, and a dataset may be called `no`."""
    return f"{json.dumps(name)}: {json.dumps(str(path), ensure_ascii=False)}"
