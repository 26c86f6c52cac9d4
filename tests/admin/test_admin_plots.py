# SPDX-License-Identifier: Apache-2.0
"""Metrics as a picture: of whatever a job reported, and a word instead where there is none."""

from __future__ import annotations

import math
import struct
import sys
from typing import Any

import pytest

from flprov.admin import draw_metrics
from flprov.admin.plots import _Line, _merged
from flprov.errors import NotFound, ProtocolError


def make_metrics(*rounds: dict[str, float], name: str = "heart", sites: int = 2) -> dict[str, Any]:
    """Rounds with these global metrics, and the same at each site."""
    return {
        "job_id": "j1",
        "name": name,
        "rounds": [
            {
                "round": number,
                "metrics": metrics,
                "sites": {f"site-{n}": {"samples": 1, "metrics": metrics} for n in range(sites)},
            }
            for number, metrics in enumerate(rounds)
        ],
    }


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header (RFC 2083, section 4.1.1)."""
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", picture[16:24])


def test_one_metric_is_one_panel_and_more_are_rows_of_three():
    one = size_of(draw_metrics(make_metrics({"loss": 1.0}, {"loss": 0.5})))
    four = size_of(draw_metrics(make_metrics(dict.fromkeys("abcd", 1.0))))
    assert four == (3 * one[0], 2 * one[1])


def test_the_same_metrics_give_the_same_picture():
    metrics = make_metrics({"loss": 1.0}, {"loss": 0.5})
    assert draw_metrics(metrics) == draw_metrics(metrics)
    assert draw_metrics(metrics) != draw_metrics(make_metrics({"loss": 1.0}, {"loss": 0.7}))


def test_a_site_or_a_round_without_the_metric_leaves_a_gap():
    metrics = make_metrics({"loss": 1.0}, {}, {"loss": 0.5})
    metrics["rounds"][0]["sites"]["site-0"] = {"samples": 0, "metrics": {}}
    del metrics["rounds"][2]["sites"]["site-1"]
    assert size_of(draw_metrics(metrics))


@pytest.mark.parametrize(
    "name", ["cost in $", "損失", "$\\frac{$", "a_b^c", "\\alpha", "<b>", "100 %", "größe"]
)
def test_a_metric_may_have_any_name(name):
    assert size_of(draw_metrics(make_metrics({name: 1.0})))


def test_very_many_metrics_are_cut_to_what_fits_into_a_picture(monkeypatch):
    monkeypatch.setattr("flprov.admin.plots._MOST_PANELS", 3)
    three = size_of(draw_metrics(make_metrics(dict.fromkeys("abc", 1.0), sites=0)))
    assert size_of(draw_metrics(make_metrics(dict.fromkeys("abcdefgh", 1.0), sites=0))) == three


def test_the_curves_of_very_many_sites_are_as_few_as_there_are_colours_and_lack_no_point():
    thin = [_Line(f"site-{n}", (1, 2), (float(n), n + 0.5), bold=False) for n in range(25)]
    bold = _Line("global", (1, 2), (0.0, 1.0), bold=True)
    *merged, last = _merged([*thin, bold])
    assert (len(merged), last) == (10, bold)
    found = sorted(value for line in merged for value in line.values if not math.isnan(value))
    assert found == sorted(value for line in thin for value in line.values)
    assert math.isnan(merged[0].values[2])  # a gap: the next one is another site's
    assert size_of(draw_metrics(make_metrics({"loss": 1.0}, {"loss": 0.5}, sites=25)))


@pytest.mark.parametrize("rounds", [(), ({},)])
def test_without_metrics_there_is_nothing_to_draw(rounds):
    with pytest.raises(NotFound, match="no metrics"):
        draw_metrics(make_metrics(*rounds))


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(NotFound, match="matplotlib is not installed") as refused:
        draw_metrics(make_metrics({"loss": 1.0}))
    assert refused.value.hint == "pip install 'flprov[plot]'"


@pytest.mark.parametrize(
    "metrics",
    [{}, {"rounds": None}, {"rounds": [3]}, {"rounds": [{"metrics": {"a": 1}}]}],
)
def test_what_are_no_metrics_is_refused(metrics):
    with pytest.raises(ProtocolError, match="cannot be drawn"):
        draw_metrics(metrics)


@pytest.mark.parametrize("values", [(1e300, 0.0), (1e-320, 5e-324), (0.0, 0.0)])
def test_very_large_and_very_small_numbers_are_drawn(values):
    assert size_of(draw_metrics(make_metrics(*({"a": value} for value in values))))


def test_numbers_that_no_axis_has_room_for_are_refused():
    with pytest.raises(ProtocolError, match="cannot be drawn"):
        draw_metrics(make_metrics({"a": 1e308}, {"a": -1e308}))
