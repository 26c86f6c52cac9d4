# SPDX-License-Identifier: Apache-2.0
"""Workspace: the folders of a run, under the names of FLARE's methods."""

from __future__ import annotations

from pathlib import Path


class Workspace:
    """All of a job's own folders are one here: private to the job at this site, gone with it."""

    def __init__(self, folder: Path, app: Path) -> None:
        self._folder = folder
        self._app = app

    def get_root_dir(self) -> str:
        """The job's folder."""
        return str(self._folder)

    def get_run_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        """The job's folder."""
        return str(self._folder)

    def get_app_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        """The job's folder: FLARE's jobs write there."""
        return str(self._folder)

    def get_result_root(self, job_id: str = "") -> str:  # noqa: ARG002
        """The job's folder."""
        return str(self._folder)

    def get_app_config_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        """The folder with the app's files, to be read only."""
        return str(self._app)

    def get_app_custom_dir(self, job_id: str = "") -> str:  # noqa: ARG002
        """The folder with the app's code, to be read only."""
        return str(self._app)
