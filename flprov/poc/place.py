# SPDX-License-Identifier: Apache-2.0
"""Where everything of one network lies, and what is remembered of its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flprov._base import canonical_json, from_document, parse_json, write_atomic
from flprov.errors import NotFound, StateDamaged
from flprov.poc.processes import ProcessMark

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Party:
    """The server or a site."""

    name: str
    kind: str  # "server" or "site": the word after `flprov`


@dataclass(frozen=True, kw_only=True)
class Record:
    """`network.json`: what was made here, and what was started last."""

    format: int = _FORMAT
    project: str = ""
    endpoint: str = ""
    admin: str = ""  # whose kit acts
    organisations: tuple[str, ...] = ()
    parties: tuple[Party, ...] = ()
    processes: Mapping[str, ProcessMark] = field(default_factory=dict)  # what was started, by party

    @property
    def alive(self) -> dict[str, ProcessMark]:
        """Those of them that run."""
        return {name: process for name, process in self.processes.items() if process.alive}

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites."""
        return tuple(party.name for party in self.parties if party.kind == "site")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of a network; `network.json` in it says that it is one."""

    folder: Path

    @property
    def record(self) -> Path:
        """What was started, last."""
        return self.folder / "network.json"

    @property
    def project(self) -> Path:
        """Who takes part; for the user to edit."""
        return self.folder / "project.yml"

    @property
    def workspace(self) -> Path:
        """What `provision` works in."""
        return self.folder / "workspace"

    @property
    def logs(self) -> Path:
        """What the processes print."""
        return self.folder / "logs"

    @property
    def lock(self) -> Path:
        """Held while a command changes something."""
        return self.folder / ".lock"

    def kit(self, name: str) -> Path:
        """A party's kit."""
        return self.workspace / "kits" / name

    def local(self, name: str) -> Path:
        """What is beside it: settings, policy, state."""
        return self.workspace / "kits" / f"{name}.local"

    def log(self, name: str) -> Path:
        """What its process prints."""
        return self.logs / f"{name}.log"

    def exists(self) -> bool:
        """Whether there is a network here, running or not."""
        return self.record.exists()

    def read(self) -> Record:
        """What was started last; some or all of it may have ended since.

        Raises:
            NotFound: no network was made here.
            StateDamaged: the record is not one of ours.
        """
        try:
            record = from_document(Record, parse_json(self.record.read_bytes()))
            if record.format != _FORMAT:
                raise ValueError(f"format {record.format} is not known to this flprov")
        except FileNotFoundError:
            raise NotFound(f"there is no network in {self.folder}", hint="flprov poc up") from None
        except (OSError, ValueError) as error:
            raise StateDamaged(
                f"{self.record} cannot be read: {error}", hint=f"end what runs, then remove {self.folder}"
            ) from error
        return record

    def write(self, record: Record) -> None:
        """Remember it."""
        write_atomic(self.record, canonical_json(record))
