# SPDX-License-Identifier: Apache-2.0
"""A FLARE job folder, read with care: sizes bounded, no links followed, nothing in it run.

meta.json                       name, deploy_map (app -> sites), min_clients, mandatory_clients
APP/config/config_fed_server.json
APP/config/config_fed_client.json
APP/custom/...                  code
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flprov._base import parse_json
from flprov.errors import ConfigError, Misuse, NotFound

SERVER, EVERYBODY = "server", "@ALL"
_LARGEST_CONFIG = 1 << 20
_LARGEST_FILE = 64 << 20
_MOST_FILES = 5000
_HOCON = "is HOCON, which is not read"
_EXPORT = "turn it into JSON first: pip install pyhocon; pyhocon -i {0} -f json -o {1}"


@dataclass(frozen=True, kw_only=True)
class FlareApp:
    """One app of a job: what some of its parties run."""

    name: str
    sites: tuple[str, ...]
    server: Mapping[str, Any] | None
    client: Mapping[str, Any] | None
    files: Mapping[str, bytes]  # of custom/, by path
    skipped: tuple[str, ...] = ()  # paths that were not taken, and why


@dataclass(frozen=True, kw_only=True)
class FlareJob:
    """A job folder."""

    name: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    server: FlareApp
    clients: tuple[FlareApp, ...]  # at least one


def read_flare_job(folder: Path) -> FlareJob:
    """What is in a FLARE job folder.

    Raises:
        NotFound: there is none.
        ConfigError: its files are not what FLARE writes, or too large.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder", hint="a FLARE job is a folder with meta.json and an app")
    meta = _read_config(folder, "meta") or {}
    deploy = meta.get("deploy_map") or _guess_apps(folder)
    if not isinstance(deploy, Mapping) or not deploy:
        raise ConfigError(
            f"{folder}: meta.json has no deploy_map, and there is no folder with config/ in it",
            hint=_find_maker(folder),
        )
    apps = [_read_app(folder, str(name), _site_names(sites)) for name, sites in deploy.items()]
    servers = [app for app in apps if app.server is not None]
    clients = tuple(app for app in apps if app.client is not None)
    if not servers or not clients:
        missing = "config_fed_server.json" if not servers else "config_fed_client.json"
        raise ConfigError(f"{folder}: no app of the deploy_map has a config/{missing}")
    name = meta.get("name")
    return FlareJob(
        name=name if isinstance(name, str) else folder.resolve().name,
        meta=meta,
        server=servers[0],
        clients=clients,
    )


def _find_maker(folder: Path) -> str | None:
    """What to type where the folder has a program of FLARE's job API or recipes, which is not run here."""
    for path in sorted(folder.glob("*.py")):
        text = _read_bytes(path, _LARGEST_CONFIG).decode("utf-8", "replace") if path.is_file() else ""
        if re.search(r"\bnvflare\b.*\b(FedJob|[Rr]ecipe)", text):
            return f"{path.name} makes a FLARE job: let it call export_job(FOLDER), and convert that folder"
    return None


def _guess_apps(folder: Path) -> dict[str, list[str]]:
    """Without a deploy_map everybody runs the one app that there is."""
    found = sorted(path.parent.name for path in folder.glob("*/config") if path.is_dir())
    return {found[0]: [EVERYBODY]} if found else {}


def _site_names(sites: object) -> tuple[str, ...]:
    if isinstance(sites, Mapping):  # {"sites": [...], "image": ...}
        sites = sites.get("sites")
    return tuple(str(site) for site in sites) if isinstance(sites, list) else (EVERYBODY,)


def _read_app(folder: Path, name: str, sites: tuple[str, ...]) -> FlareApp:
    if re.fullmatch(r"[\w][\w.-]*", name, re.ASCII) is None or (folder / name).is_symlink():
        raise ConfigError(f"{folder}: the deploy_map names the app {name!r}, which is no plain folder's name")
    app = folder / name
    if not app.is_dir():
        raise NotFound(f"{folder}: the deploy_map names the app {name!r}, and there is no such folder")
    serves = SERVER in sites or EVERYBODY in sites
    trains = EVERYBODY in sites or any(site != SERVER for site in sites)
    files, skipped = _read_files(app / "custom")
    return FlareApp(
        name=name,
        sites=sites,
        server=_read_config(app / "config", "config_fed_server") if serves else None,
        client=_read_config(app / "config", "config_fed_client") if trains else None,
        files=files,
        skipped=skipped,
    )


def _read_config(folder: Path, stem: str) -> Mapping[str, Any] | None:
    """The document `stem`.json, or one of FLARE's other spellings that is JSON but for comments."""
    for suffix in (".json", ".conf", ".yml", ".yaml"):
        path = folder / f"{stem}{suffix}"
        if not path.is_file():
            continue
        text = _read_bytes(path, _LARGEST_CONFIG).decode("utf-8", "replace")
        if suffix != ".json":
            text = re.sub(r"(?m)^\s*(#|//).*$", "", text)
        try:
            found = parse_json(text)
        except ValueError as error:
            if suffix == ".json":
                raise ConfigError(f"{path} cannot be read: {error}") from None
            raise Misuse(
                f"{path} {_HOCON}" if suffix == ".conf" else f"{path} is not read; only JSON is",
                hint=_EXPORT.format(path, path.with_suffix(".json")) if suffix == ".conf" else None,
            ) from None
        if not isinstance(found, dict):
            raise ConfigError(f"{path} must hold an object, not a {type(found).__name__}")
        return _fill_in(found)
    return None


def _fill_in(config: dict[str, Any]) -> dict[str, Any]:
    """FLARE lets `"{epochs}"` stand for the value of the top-level key `epochs`."""
    values = {key: value for key, value in config.items() if isinstance(value, str | int | float)}

    def fill(value: Any, depth: int) -> Any:  # noqa: ANN401 - a JSON value
        if depth == 0:
            return value
        if isinstance(value, dict):
            return {key: fill(inner, depth - 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, depth - 1) for inner in value]
        if not isinstance(value, str) or "{" not in value:
            return value
        whole = re.fullmatch(r"\{(\w+)\}", value)
        if whole and whole[1] in values:
            return values[whole[1]]
        return re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), value)

    return {key: value if key in values else fill(value, 32) for key, value in config.items()}


def _read_files(folder: Path) -> tuple[Mapping[str, bytes], tuple[str, ...]]:
    files: dict[str, bytes] = {}
    skipped: list[str] = []
    if folder.is_symlink():
        return {}, (f"{folder.name}: a link is not followed",)
    for path, name in _walk(folder):
        if path.is_symlink():
            skipped.append(f"custom/{name}: a link is not followed")
        elif not path.is_file():
            skipped.append(f"custom/{name}: not a plain file")
        elif len(files) >= _MOST_FILES:
            raise ConfigError(f"{folder} holds more than {_MOST_FILES} files")
        else:
            files[name] = _read_bytes(path, _LARGEST_FILE)
    return files, tuple(skipped)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    for parent, folders, names in os.walk(folder):
        kept = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        links = [name for name in kept if (Path(parent) / name).is_symlink()]
        folders[:] = [name for name in kept if name not in links]
        for name in sorted([*names, *links]):
            if not name.startswith(".") and not name.endswith((".pyc", ".pyo")):
                path = Path(parent) / name
                yield path, path.relative_to(folder).as_posix()


def _read_bytes(path: Path, most: int) -> bytes:
    if path.stat().st_size > most:
        raise ConfigError(f"{path} is larger than {most >> 20} MiB")
    return path.read_bytes()
