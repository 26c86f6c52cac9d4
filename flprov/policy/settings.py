# SPDX-License-Identifier: Apache-2.0
"""`site.yml`: what this site has for jobs, its datasets and the interpreter that runs them, and its proxy.

datasets: {heart: /data/heart}   # a relative path begins at this file's folder
python: /opt/flprov-jobs/bin/python
proxy: http://proxy.hospital-a.example:3128   # on the way to the server; with a password: mode 0600
he_secret: he.secret   # mode 0600; what the sites gave each other for jobs that average ciphertexts
metrics: 127.0.0.1:9465   # or `off`: where the agent answers this machine's monitoring
warm: true   # or `false`, or a list of modules: what is imported before a job comes
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flprov.config import WARM, Section, open_config, read_metrics, read_warm, shown
from flprov.errors import NotFound
from flprov.project import DIRECT, Route, parse_proxy

METRICS = "127.0.0.1:9465"
DATASET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """The site's own names for its data, and its interpreter for jobs (None: flprov's own)."""

    source: Path
    datasets: Mapping[str, Path] = field(default_factory=dict)
    python: Path | None = None
    route: Route | None = None  # how the server is dialled, if the site says it; read when the agent starts
    he_secret: Path | None = None  # of the file; docs/workflows/fedavg-he.md
    metrics: str = METRICS  # where the agent answers monitoring, or "off"; read when it starts
    warm: tuple[str, ...] | None = WARM  # what is imported ahead of jobs, None: nothing; read when it starts


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
            route = _read_route(top, path) if top.has("proxy") else None
            return SiteSettings(
                source=path,
                datasets=datasets,
                python=python,
                route=route,
                he_secret=folder / _read_path(top, "he_secret") if top.has("he_secret") else None,
                metrics=read_metrics(top, METRICS),
                warm=read_warm(top),
            )
    except NotFound:
        return SiteSettings(source=path)


def _read_datasets(section: Section | None, folder: Path) -> dict[str, Path]:
    if section is None:
        return {}
    for name in section.keys():  # noqa: SIM118 - a Section is not a mapping
        if not re.fullmatch(DATASET_NAME, name):
            section.problem(name, f"{shown(name)} is not the name of a dataset: use letters, digits, . _ -")
    return {name: folder / _read_path(section, name) for name in section.keys()}  # noqa: SIM118


def _read_route(top: Section, path: Path) -> Route:
    text = top.text("proxy")
    try:
        proxy = parse_proxy(text) if text else None  # without text the mistake is noted already
    except ValueError as error:
        top.problem("proxy", f"'proxy' will not do: {error}")
        return DIRECT
    mode = stat.S_IMODE(path.stat().st_mode)
    if proxy is not None and proxy.is_secret and mode & 0o077:
        top.problem(
            "proxy",
            f"the proxy's password stands here, and other users of this machine can read this file"
            f" (mode {mode:04o}): chmod 600 {path}",
        )
    return Route(proxy=proxy, source=path.name)


def _read_path(section: Section, key: str) -> str:
    text = section.text(key)
    if text.startswith("~"):
        section.problem(key, f"{key!r} must be a path without ~; write it out")
    return text
