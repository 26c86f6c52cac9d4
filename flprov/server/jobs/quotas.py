# SPDX-License-Identifier: Apache-2.0
"""The quotas of server.yml, read again when the file has changed.

quota: {jobs: 4, gpus: 8}        # what an organisation may have running at once; absent: no limit
quotas: {org-a: {jobs: 2}}       # others, for some; what is not said is as under `quota`
"""

from __future__ import annotations

import logging
from pathlib import Path

from flprov.config import Section, open_config
from flprov.errors import ConfigError, LocalError, NotFound
from flprov.jobs import Quota, Quotas

logger = logging.getLogger(__name__)


def read_quotas(top: Section) -> Quotas:
    """The quotas in an open server.yml."""
    everybody = top.section("quota", required=False)
    named = top.section("quotas", required=False)
    found: dict[str, Quota] = {}
    for org in named.keys() if named else ():
        own = named.section(org, required=False) if named else None
        found[org] = _read_quota(own)
    return Quotas(everybody=_read_quota(everybody), named=found)


def _read_quota(section: Section | None) -> Quota:
    if section is None:
        return Quota()
    return Quota(jobs=section.integer("jobs", None, minimum=0), gpus=section.integer("gpus", None, minimum=0))


class QuotaFile:
    """The last quotas that could be read, and what is wrong with the file now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None  # modification time and size of what was read last
        self._quotas = Quotas()
        self.notes: tuple[str, ...] = ()

    def read(self) -> Quotas:
        """The quotas as of now. A file with mistakes changes nothing; `notes` says what they are."""
        seen = self._stamp()
        if seen != self._seen:
            self._seen = seen
            try:
                self._quotas = self._read()
                self.notes = ()
            except (ConfigError, LocalError) as error:
                problems = error.problems if isinstance(error, ConfigError) else [str(error)]
                self.notes = tuple(f"the quotas are as before: {problem}" for problem in problems)
                logger.warning("the quotas stay as they are: %s", error)
        return self._quotas

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def _read(self) -> Quotas:
        try:
            with open_config(self._path) as top:
                for key in top.keys():  # noqa: SIM118 - a Section is not a mapping
                    top.has(key)  # whoever else reads this file says what may stand there
                return read_quotas(top)
        except NotFound:
            return Quotas()
