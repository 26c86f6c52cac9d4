# SPDX-License-Identifier: Apache-2.0
"""docs/job-yml.md says what the code does: every block loads, every key and default is the real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flprov._base import to_document
from flprov.jobs import Filters, JobSpec, Membership, Resources, Workflow
from flprov.jobs.archive import BundleLimits
from flprov.jobs.job import WORKFLOW
from flprov.jobs.reading import read_job

PAGE = (Path(__file__).parents[2] / "docs" / "job-yml.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ROWS = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
NAMED = {"train.py", "model.py", "my_workflow.py", "lib/training.py", "privacy.py"}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_job(block):
    assert read_job(Path("job.yml"), NAMED, text=block.encode()).name


def test_blocks_are_found():
    assert len(BLOCKS) >= 6


def test_table_has_every_key_and_no_other():
    def keys(kind: type, prefix: str) -> set[str]:
        return {prefix + name.removesuffix("_seconds") for name in kind.__dataclass_fields__}

    expected = keys(JobSpec, "") - {"workflow", "sites", "resources", "filters"}
    expected |= (keys(Workflow, "workflow.") - {"workflow.options"}) | {"workflow.…"}
    expected |= keys(Membership, "sites.") | keys(Resources, "resources.")
    expected |= {name.replace("_", ".") for name in keys(Filters, "filters.")}
    assert set(ROWS) == expected


def test_defaults_are_the_real_ones():
    lines = ["name: a", "tasks: train.py"]
    for key, default in ROWS.items():
        if default.startswith("`") and "." in key and not key.startswith("filters"):
            section, name = key.split(".")
            lines.append(f"{section}.{name}: {default.strip('`')}")
    sections: dict[str, list[str]] = {}
    for line in lines[2:]:
        section, rest = line.split(".", 1)
        sections.setdefault(section, []).append(rest)
    text = "\n".join([*lines[:2], *(f"{name}: {{{', '.join(items)}}}" for name, items in sections.items())])
    assert len(sections["resources"]) == 6
    stated = read_job(Path("job.yml"), NAMED, text=text.encode())
    assert to_document(stated) == to_document(JobSpec(name="a", tasks={"train": "train.py"}))
    assert stated.workflow.type == WORKFLOW


def test_limits_are_the_real_ones():
    limits = BundleLimits()
    assert f"{limits.files:,} files or {limits.total_bytes >> 20} MiB" in PAGE
