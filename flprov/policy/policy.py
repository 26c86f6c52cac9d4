# SPDX-License-Identifier: Apache-2.0
"""`policy.yml`: whose jobs this site runs and how much they may take. No policy, no jobs.

allow:
  organisations: [org-a]         # everybody of these may run jobs here
  people: [alice]                # and these: names, or whole spiffe:// identities
ceilings: {gpus: 1, cpus: 4, memory: 8GiB, jobs: 2}
unconfined: false                # job code runs even where it cannot be confined
tracebacks: true                 # a failing job's traceback may leave the site
logs: {share: true, cap: 16MiB, redact: ["MRN[0-9]+"]}   # of jobs' output; redact also masks messages
filters: {result: [{type: clip_norm, max_norm: 1}], task: []}   # done to tensors here, after the job's own
statistics: {min_count: 10}      # fewer values than this are not described; filterrules.py has the rest
tasks: {refuse: [submit_model]}  # names of tasks that this site does not do
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flprov.config import Section, open_config
from flprov.errors import IdentityRefused, NotFound
from flprov.messages import StatisticsRules
from flprov.pki import Kind, parse_identity
from flprov.policy.filterrules import (
    FilterRules,
    read_filter_rules,
    read_refused_tasks,
    read_statistics_rules,
)
from flprov.policy.logrules import LogRules, read_log_rules
from flprov.project import NAME, NAME_IN_WORDS


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The most that one job may ask of this site; None is no ceiling."""

    gpus: int | None = None
    cpus: int | None = None
    memory: int | None = None  # bytes
    jobs: int | None = None  # jobs at the same time, over all submitters


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """Whose jobs a site runs. The default is nobody's."""

    source: Path
    exists: bool = True  # False: there is no policy.yml
    organisations: frozenset[str] = frozenset()
    people: frozenset[str] = frozenset()  # names or whole identities
    ceilings: Ceilings = field(default_factory=Ceilings)
    unconfined: bool = False
    tracebacks: bool = True
    logs: LogRules = field(default_factory=LogRules)
    filters: FilterRules = field(default_factory=FilterRules)
    statistics: StatisticsRules = field(default_factory=StatisticsRules)
    refused_tasks: frozenset[str] = frozenset()


def load_policy(path: Path) -> SitePolicy:
    """The policy in the file `path`; one that allows nobody if there is no such file.

    Raises:
        ConfigError: the file has mistakes; it must not be guessed what it allows.
        LocalError: the file is there and cannot be read.
    """
    try:
        with open_config(path) as top:
            return _read_policy(top, path)
    except NotFound:
        return SitePolicy(source=path, exists=False)


def _read_policy(top: Section, path: Path) -> SitePolicy:
    allow = top.section("allow", required=False)
    return SitePolicy(
        source=path,
        organisations=_read_organisations(allow) if allow else frozenset(),
        people=_read_people(allow) if allow else frozenset(),
        ceilings=_read_ceilings(top.section("ceilings", required=False)),
        unconfined=top.flag("unconfined", default=False),
        tracebacks=top.flag("tracebacks", default=True),
        logs=read_log_rules(top.section("logs", required=False)),
        filters=read_filter_rules(top.section("filters", required=False)),
        statistics=read_statistics_rules(top.section("statistics", required=False)),
        refused_tasks=read_refused_tasks(top.section("tasks", required=False)),
    )


def _read_organisations(allow: Section) -> frozenset[str]:
    return frozenset(allow.texts("organisations", (), pattern=NAME, what=NAME_IN_WORDS))


def _read_people(allow: Section) -> frozenset[str]:
    people = allow.texts(
        "people", (), pattern=f"{NAME}|spiffe://.*", what=f"{NAME_IN_WORDS}, or a spiffe:// identity"
    )
    for person in people:
        mistake = _mistake_of(person) if person.startswith("spiffe://") else None
        if mistake:
            allow.problem("people", mistake, item=person)
    return frozenset(people)


def _mistake_of(uri: str) -> str | None:
    try:
        identity = parse_identity(uri)
    except IdentityRefused as error:
        return str(error)
    return None if identity.kind is Kind.PERSON else f"{uri} is not a person"


def _read_ceilings(section: Section | None) -> Ceilings:
    if section is None:
        return Ceilings()
    return Ceilings(
        gpus=section.integer("gpus", None, minimum=0),
        cpus=section.integer("cpus", None, minimum=1),
        memory=section.size("memory", None),
        jobs=section.integer("jobs", None, minimum=0),
    )
