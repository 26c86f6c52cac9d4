# SPDX-License-Identifier: Apache-2.0
"""Parts: the components of a run, found by id, and the events that they hear.

Job code reaches this as `fl_ctx.get_engine()`. It has what can be done honestly here; asking for
anything else of FLARE's engines is an AttributeError that says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flprov.errors import ConfigError
from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext, FLContextManager
from flprov.flare.apis.workspace import Workspace
from flprov.sdk import load_entry

COMPONENTS = "components"  # the key of job.yml's `args` that names them


class Parts:
    """What `fl_ctx.get_engine()` gives at a site and beside the server."""

    def __init__(self, *, identity: str, job_id: str, workspace: Workspace) -> None:
        self._components: dict[str, object] = {}
        self._workspace = workspace
        self._contexts = FLContextManager(self, identity, job_id)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - it never returns
        raise AttributeError(f"flprov.flare's engine has no {name!r}; docs/flare.md lists what it has")

    def add(self, component_id: str, component: object) -> None:
        """Let a component be found by `component_id`."""
        self._components[component_id] = component

    def get_component(self, component_id: str) -> Any:  # noqa: ANN401 - of a class of the job's
        """The component of this id, or None."""
        return self._components.get(component_id)

    def get_all_components(self) -> dict[str, object]:
        """All components by id."""
        return dict(self._components)

    def get_workspace(self) -> Workspace:
        """The folders of this run."""
        return self._workspace

    def new_context(self) -> FLContext:
        """Another context of this run."""
        return self._contexts.new_context()

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Let all components hear an event, in the order in which they were added.

        What a component raises passes through: here nothing that fails is only logged.
        """
        heard: list[FLComponent] = []
        for one in self._components.values():
            if isinstance(one, FLComponent) and not any(one is other for other in heard):
                heard.append(one)
        for component in heard:
            for handler, options in component.get_event_handlers().get(event_type, []):
                handler(event_type, fl_ctx, **options)
            component.handle_event(event_type, fl_ctx)


def build_component(config: Mapping[str, Any], where: str) -> object:
    """The object that `{path: package.module.Class, args: {...}}` describes; args may hold further ones.

    Raises:
        ConfigError: there is no such class, or it does not take these arguments.
    """
    path = config.get("path") or config.get("class_path")
    args = config.get("args", {})
    if not isinstance(path, str) or not isinstance(args, Mapping):
        raise ConfigError(f"{where} must be {{path: module.Class, args: {{...}}}}")
    module, _, name = path.replace(":", ".").rpartition(".")
    maker = load_entry(f"{module}:{name}", f"{where}.path")
    if not callable(maker):
        raise ConfigError(f"{where}.path: {path} is no class")
    built = {
        key: build_component(value, f"{where}.args.{key}")
        if isinstance(value, Mapping) and ("path" in value or "class_path" in value)
        else value
        for key, value in args.items()
    }
    try:
        return maker(**built)
    except TypeError as error:
        raise ConfigError(f"{where}: {path} does not take these args: {error}") from error


def build_components(args: Mapping[str, object]) -> dict[str, object]:
    """The components that `args.components` of job.yml describes, by id. Raises ConfigError."""
    rows = args.get(COMPONENTS, {})
    if not isinstance(rows, Mapping):
        raise ConfigError(f"args.{COMPONENTS} must be a mapping from id to {{path, args}}")
    return {
        str(component_id): build_component(
            row if isinstance(row, Mapping) else {}, f"args.{COMPONENTS}.{component_id}"
        )
        for component_id, row in rows.items()
    }


def find_workspace(folder: Path) -> Workspace:
    """The workspace of a job whose own folder is `folder`; its code lies beside that."""
    return Workspace(folder, folder.parent / "app")


def show_log() -> None:
    """Let log_info be seen, unless the job has set up logging by itself."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
