# SPDX-License-Identifier: Apache-2.0
"""site.yml: datasets and the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

from flprov.errors import ConfigError
from flprov.policy import SiteSettings, load_site_settings


def load(folder: Path, text: str) -> SiteSettings:
    (folder / "site.yml").write_text(text)
    return load_site_settings(folder / "site.yml")


def test_datasets_and_python_are_read(tmp_path):
    settings = load(
        tmp_path, "datasets:\n  heart: /data/heart\n  CT_2024.v1: scans\npython: venv/bin/python\n"
    )
    assert settings.datasets == {"heart": Path("/data/heart"), "CT_2024.v1": tmp_path / "scans"}
    assert settings.python == tmp_path / "venv/bin/python"


def test_relative_paths_begin_at_the_file_wherever_the_process_is(tmp_path, monkeypatch):
    (tmp_path / "hospital-a.local").mkdir()
    (tmp_path / "hospital-a.local" / "site.yml").write_text("datasets: {heart: ../data}\n")
    monkeypatch.chdir(tmp_path)
    settings = load_site_settings(Path("hospital-a.local/site.yml"))
    assert settings.datasets["heart"] == tmp_path / "hospital-a.local" / ".." / "data"


def test_a_link_to_an_interpreter_is_kept(tmp_path):
    """A virtual environment is found by the path of the link, not by what it leads to."""
    (tmp_path / "python").symlink_to("/usr/bin/env")
    assert load(tmp_path, "python: python\n").python == tmp_path / "python"


@pytest.mark.parametrize("text", ["", "# only comments\n", "datasets:\n", "datasets: {}\n"])
def test_nothing_is_named_by_default(tmp_path, text):
    settings = load(tmp_path, text)
    assert (settings.datasets, settings.python) == ({}, None)


def test_a_missing_file_is_empty_settings(tmp_path):
    assert load_site_settings(tmp_path / "site.yml") == SiteSettings(source=tmp_path / "site.yml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dataset: {}\n", "unknown key 'dataset' (did you mean 'datasets'?)"),
        (
            "datasets: [heart]\n",
            "'datasets' must be a mapping (lines of `name: value` under `datasets:`), not a list",
        ),
        ("datasets: {heart: }\n", "'heart' is empty; it must be text"),
        ("datasets: {heart: [a]}\n", "'heart' must be text, not a list"),
        ("datasets: {../x: /data}\n", "'../x' is not the name of a dataset: use letters, digits, . _ -"),
        ("datasets: {heart: ~/heart}\n", "'heart' must be a path without ~; write it out"),
        ("python: ~\n", "'python' is empty; it must be text"),
        ("python: 3.11\n", "'python' must be in quotes to be text: '3.11'"),
        (
            'datasets: {heart: "/data\\0"}\n',
            "U+0000 (control character) cannot be seen and is not allowed; delete it",
        ),
    ],
)
def test_mistakes_in_site_yml(tmp_path, text, problem):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.problems == [f"{tmp_path / 'site.yml'}:1: {problem}"]


def test_warm_is_on_unless_the_site_says_otherwise(tmp_path):
    assert load(tmp_path, "datasets: {}\n").warm == ("numpy", "torch")
    assert load(tmp_path, "warm: true\n").warm == ("numpy", "torch")
    assert load(tmp_path, "warm: false\n").warm is None
    assert load(tmp_path, "warm: []\n").warm == ()
    assert load(tmp_path, "warm: [torch, sklearn.linear_model]\n").warm == ("torch", "sklearn.linear_model")
    for text in ("torch", "[1]", "['a b']", "{torch: 1}", "3", "['']"):
        with pytest.raises(ConfigError, match="'warm' is true, false, or a list of modules"):
            load(tmp_path, f"warm: {text}\n")


def test_metrics_are_on_loopback_unless_the_site_says_otherwise(tmp_path):
    assert load(tmp_path, "datasets: {}\n").metrics == "127.0.0.1:9465"
    assert load(tmp_path, "metrics: off\n").metrics == "off"
    assert load(tmp_path, "metrics: 10.1.2.3:9465\n").metrics == "10.1.2.3:9465"
    with pytest.raises(ConfigError, match="write off, or an address and a port"):
        load(tmp_path, "metrics: example.org:80\n")
