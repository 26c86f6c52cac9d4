# SPDX-License-Identifier: Apache-2.0
"""Names that mean the same file everywhere, and the others."""

from __future__ import annotations

import pytest

from flprov.errors import Misuse
from flprov.jobs.filenames import is_skipped, verify_path, verify_paths

UNSAFE = {
    "../x.py": "climbs out",
    "a/../../x.py": "climbs out",
    "..": "climbs out",
    "/etc/passwd": "absolute",
    "//server/share": "absolute",
    "C:/x.py": "holds the character ':'",
    "C:x.py": "holds the character ':'",
    "x.py:stream": "holds the character ':'",
    "a\\b.py": "holds the character '\\\\'",
    "..\\x.py": "holds the character '\\\\'",
    "a//b": "empty part",
    "a/": "empty part",
    "": "empty part",
    "./a": "'.' part",
    "a/./b": "'.' part",
    "a\nb": "holds the character '\\n'",
    "a\0b": "holds the character '\\x00'",
    "a\x7f": "holds the character",
    "a\u202etxt.py": "holds the character '\\u202e'",
    "a\u200b.py": "holds the character",
    "a\u2028b": "holds the character",
    "a\udc80b": "holds the character '\\udc80'",
    "a?b": "holds the character '?'",
    "a*": "holds the character '*'",
    'a"b': "holds the character",
    "a<b>": "holds the character",
    "a|b": "holds the character",
    "CON": "device",
    "con.py": "device",
    "lib/Nul.tar.gz": "device",
    "COM1": "device",
    "lpt9.txt": "device",
    "aux .py": "device",
    "com¹": "device",
    "-rf": "starts with '-'",
    "~root": "starts with '~'",
    " a": "starts with ' '",
    "a ": "ends with ' '",
    "a.": "ends with '.'",
    "a../b": "ends with '.'",
    ".git/config": "hidden",
    ".bashrc": "hidden",
    "__pycache__/a.py": "hidden or compiled",
    "a.pyc": "hidden or compiled",
    "e\u0301.txt": "composed form",
    "a" * 201: "longer than 200",
    "é" * 101: "longer than 200",
    "a/" * 300 + "b": "longer than 512",
    "a/" * 40 + "b": "folders deep",
}


@pytest.mark.parametrize(("name", "why"), UNSAFE.items())
def test_unsafe_path_is_refused_with_its_reason(name, why):
    with pytest.raises(Misuse) as caught:
        verify_path(name)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name",
    [
        "train.py",
        "a/b/c.py",
        "data set.csv",
        "Größe.txt",
        "模型.py",
        "con_fig.py",
        "a..b",
        "a" * 200,
        "a-b~c",
    ],
)
def test_ordinary_path_is_accepted(name):
    assert verify_path(name) == name


@pytest.mark.parametrize(
    "names",
    [
        ["a.py", "A.py"],
        ["lib/a.py", "Lib/b.py"],
        ["straße", "STRASSE"],
        ["é", "É"],
        ["a", "a/b"],
        ["a/b/c", "a/b"],
        ["x/a", "x/A/b"],
        ["a.py", "a.py"],
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_names_in_each_others_way_are_refused(names, turn):
    with pytest.raises(Misuse):
        verify_paths(names[::turn])


@pytest.mark.parametrize(
    "name",
    [
        "flprov.py",
        "flprov/__init__.py",
        "FLPROV.py",
        "flprov.cpython-311-x86_64-linux-gnu.so",
        "sitecustomize.py",
        "sitecustomize/__init__.py",
        "SiteCustomize.py",
        "usercustomize.py",
        "evil.pth",
        "lib/evil.PTH",
        "lib/a.PYC",
    ],
)
def test_names_that_take_our_place_or_run_at_start_are_refused(name):
    with pytest.raises(Misuse):
        verify_paths(["job.yml", name])


def test_our_names_are_free_below_the_top():
    assert verify_paths(["lib/flprov.py", "b.py", "a.py"]) == ("a.py", "b.py", "lib/flprov.py")


@pytest.mark.parametrize("part", [".git", ".venv", ".DS_Store", "__pycache__", "a.pyc", "a.pyo"])
def test_hidden_and_compiled_are_skipped(part):
    assert is_skipped(part)


def test_ten_thousand_names_are_checked_quickly():
    names = [f"data/part{n // 100}/file{n}.bin" for n in range(10_000)]
    assert len(verify_paths(names)) == 10_000
