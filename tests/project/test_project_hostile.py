# SPDX-License-Identifier: Apache-2.0
"""Project files made to hurt: one clear line each, quickly, and never anything but ConfigError."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from flprov.errors import ConfigError
from flprov.project import load_project

SAMPLE = (Path(__file__).parents[2] / "project.yml").read_bytes()
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"b{n}: [{','.join(['*a'] * 9)}]\n".encode() for n in range(20)
)

CASES = {
    "utf-16": (SAMPLE.decode().encode("utf-16"), "UTF-16"),
    "latin-1": (SAMPLE.replace(b"Hospital A", b"Gr\xf6\xdfe"), "not UTF-8"),
    "nul": (SAMPLE.replace(b"heart-study ", b"heart\0study ", 1), "U+0000"),
    "right-to-left mark": (SAMPLE.replace(b"name: org-a", "name: org\u202ea".encode(), 1), "U+202E"),
    "zero width": (SAMPLE.replace(b"name: org-a", "name: org\u200ba".encode(), 1), "U+200B"),
    "homoglyph": (SAMPLE.replace(b"name: hospital-c", "name: hоspital-c".encode(), 1), "U+043E"),
    "duplicate key": (SAMPLE + b"\nname: other\n", "stands here twice"),
    "duplicate key inside": (
        SAMPLE.replace(b"role: lead", b"role: lead, role: observer"),
        "stands here twice",
    ),
    "alias bomb": (SAMPLE + BOMB, "aliases are not allowed"),
    "merge key": (SAMPLE.replace(b"{name: hospital-a,", b"{<<: {}, name: hospital-a,"), "merge keys"),
    "depth": (SAMPLE + b"x: " + b"[" * 2000 + b"]" * 2000, "deeper than 20"),
    "tag": (SAMPLE.replace(b"heart-study ", b"!!python/object/new:os.system ", 1), "tags are not allowed"),
    "surprising scalar": (SAMPLE.replace(b"name: dave", b"name: no"), "in quotes"),
    "sexagesimal": (SAMPLE.replace(b"name: dave", b"name: 12:30:45"), "in quotes"),
    "traversal": (SAMPLE.replace(b"name: dave", b"name: ../x"), "must be a name"),
    "option": (SAMPLE.replace(b"name: dave", b"name: -rf"), "must be a name"),
    "device": (SAMPLE.replace(b"name: dave", b"name: con"), "device"),
    "device in capitals": (SAMPLE.replace(b"name: dave", b"name: CON"), "must be a name"),
    "over-long": (SAMPLE.replace(b"name: dave", b"name: " + b"d" * 100_000), "longer than 4096"),
    "two documents": (SAMPLE + b"\n---\nname: other\n", "second document"),
    "a list": (b"- a\n", "must be a mapping"),
    "too large": (SAMPLE + b"#" * (1 << 20), "larger than"),
    "binary": (bytes(range(256)) * 16, "not UTF-8"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_refused_quickly_with_the_cause(case, tmp_path):
    data, words = CASES[case]
    path = tmp_path / "project.yml"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        load_project(path)
    assert time.perf_counter() - start < 1
    assert any(words in problem for problem in caught.value.problems)
    assert all(problem.startswith(f"{path}:") and problem.isprintable() for problem in caught.value.problems)
    assert max(map(len, caught.value.problems)) < len(str(path)) + 300


@pytest.mark.parametrize("item", ["-", "h{}"])
def test_a_list_of_thousands_of_names_takes_no_minute(tmp_path, item):
    listed = ", ".join('"' + item.format(number) + '"' for number in range(12_000))
    path = tmp_path / "project.yml"
    path.write_bytes(SAMPLE.replace(b"  # names: []", f"  names: [{listed}]".encode(), 1))
    assert path.read_bytes() != SAMPLE
    start = time.perf_counter()
    with contextlib.suppress(ConfigError):
        load_project(path)
    assert time.perf_counter() - start < 10


def test_a_thousand_sites_of_organisations_that_are_not_there_take_no_minute(tmp_path):
    organisations = "".join(f"  - {{name: hospital-{number}}}\n" for number in range(1000))
    sites = "".join(f"  - {{name: site-{number}, org: hospitel-{number}}}\n" for number in range(1000))
    path = tmp_path / "project.yml"
    path.write_bytes(
        SAMPLE.replace(b"organisations:\n", f"organisations:\n{organisations}".encode(), 1).replace(
            b"sites:\n", f"sites:\n{sites}".encode(), 1
        )
    )
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"'hospitel-0' \(did you mean 'hospital-0'"):
        load_project(path)
    assert time.perf_counter() - start < 10


def test_two_thousand_brackets_take_less_than_50_ms(tmp_path):
    path = tmp_path / "project.yml"
    path.write_bytes(b"[" * 2000 + b"]" * 2000)
    best = 1.0
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(ConfigError, match="deeper than 20"):
            load_project(path)
        best = min(best, time.perf_counter() - start)
    assert best < 0.05


def _damaged(data: bytes, chance: random.Random) -> bytes:
    pieces = [
        b"[",
        b"]",
        b"{",
        b"}",
        b": ",
        b"- ",
        b"&a ",
        b"*a ",
        b"!!x ",
        b"\t",
        b"\n",
        b'"',
        b"'",
        b"|",
        b"\xff",
        b"\0",
    ]
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data))
        end = start + chance.choice([0, 0, 1, 5, 200])
        data = data[:start] + chance.choice([*pieces, chance.randbytes(3), b""]) + data[end:]
    return data


def test_whatever_is_done_to_a_file_it_loads_or_is_refused(tmp_path):
    chance = random.Random(1)
    path = tmp_path / "project.yml"
    refused = 0
    for _ in range(400):
        path.write_bytes(_damaged(SAMPLE, chance))
        with contextlib.suppress(ConfigError):
            load_project(path)
            continue
        refused += 1
    assert 100 < refused < 400
