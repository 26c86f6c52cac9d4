# SPDX-License-Identifier: Apache-2.0
"""The commented sample at the top of the tree: it loads, and it is complete."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from flprov.config import Section
from flprov.project import load_project

SAMPLE = Path(__file__).parents[2] / "project.yml"
PIN = "SHA256:" + ":".join(["0A"] * 32)


def uncommented() -> str:
    """The sample with every commented key (not every comment) brought to life."""
    text = re.sub(r"(?m)^( *)# ((?:  )?[a-z_]+:(?: .*)?|- .*)$", r"\1\2", SAMPLE.read_text())
    return re.sub(r'"SHA256:[^"]*"', PIN, text)


def test_the_sample_is_a_network_to_try_at_once():
    project = load_project(SAMPLE)
    assert project.server.endpoints == ("localhost:8443",)
    assert [site.name for site in project.sites] == ["hospital-a", "hospital-b", "hospital-c"]
    assert len({site.org for site in project.sites}) == 3
    assert {person.role for person in project.people} == {"project_admin", "lead", "org_admin", "observer"}


def test_every_key_that_is_read_stands_in_the_sample(tmp_path, monkeypatch):
    asked: dict[str, set[str]] = defaultdict(set)
    present: dict[str, set[str]] = defaultdict(set)
    close = Section.close

    def watch(section: Section) -> None:
        asked[section._where] |= section._asked
        present[section._where] |= set(section.keys())
        close(section)

    monkeypatch.setattr(Section, "close", watch)
    path = tmp_path / "project.yml"
    path.write_text(uncommented())
    load_project(path)
    assert asked == present
    assert {"root_fingerprint", "validity"} <= asked[""]
    assert {"listen", "names"} <= asked["'server'"]


def test_what_is_commented_out_shows_the_defaults(tmp_path):
    path = tmp_path / "project.yml"
    path.write_text(uncommented())
    shown, plain = load_project(path), load_project(SAMPLE)
    assert shown.validity == plain.validity
    assert (shown.server.listen, shown.server.names) == (plain.server.listen, plain.server.names)
    assert shown.root_fingerprint == PIN
    assert len(shown.server.endpoints) == 3
    assert (shown.organisations, shown.people) == (plain.organisations, plain.people)
    assert [site.proxy for site in shown.sites] == ["", "", "http://proxy.hospital-c.example:3128"]
    assert [replace(site, proxy="") for site in shown.sites] == list(plain.sites)


def test_the_sample_is_short_enough_to_read():
    lines = SAMPLE.read_text().splitlines()
    assert len(lines) < 110
    assert max(map(len, lines)) <= 100
