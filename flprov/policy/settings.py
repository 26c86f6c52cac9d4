# SPDX-License-Identifier: Apache-2.0
"""`site.yml`: what this site has for jobs: its datasets and the interpreter that runs them.

datasets: {heart: /data/heart}   # a relative path begins at this file's folder
python: /opt/flprov-jobs/bin/python
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flprov.config import Section, open_config, shown
from flprov.errors import NotFound

DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """The site's own names for its data, and its interpreter for jobs (None: flprov's own)."""

    source: Path
    datasets: Mapping[str, Path] = field(default_factory=dict)
    python: Path | None = None


def load_site_settings(path: Path) -> SiteSettings:
    """The settings in the file `path`; none if there is no such file.

    Whether the paths lead anywhere is not looked at: that is a rung of the site's ladder, which
    may change while the site runs.

    Raises:
        ConfigError: the file has mistakes.
        LocalError: the file is there and cannot be read.
    """
    try:
        with open_config(path) as top:
            folder = path.absolute().parent
            datasets = _read_datasets(top.section("datasets", required=False), folder)
            python = folder / _read_path(top, "python") if top.has("python") else None
            return SiteSettings(source=path, datasets=datasets, python=python)
    except NotFound:
        return SiteSettings(source=path)


def _read_datasets(section: Section | None, folder: Path) -> dict[str, Path]:
    if section is None:
        return {}
    for name in section.keys():  # noqa: SIM118 - a Section is not a mapping
        if not re.fullmatch(DATASET_NAME, name):
            section.problem(name, f"{shown(name)} is not the name of a dataset: use letters, digits, . _ -")
    return {name: folder / _read_path(section, name) for name in section.keys()}  # noqa: SIM118


def _read_path(section: Section, key: str) -> str:
    text = section.text(key)
    if text.startswith("~"):
        section.problem(key, f"{key!r} must be a path without ~; write it out")
    return text
