# SPDX-License-Identifier: Apache-2.0
"""`flprov job plot`: the numbers of jobs as a picture, as text, as JSON."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from flprov.admin import draw_curves, make_curves
from flprov.cli import jobplot
from flprov.cli.curves import text_curves
from flprov.errors import Conflict, Misuse, NotFound, ProtocolError
from flprov.wire import ROUND, SeriesFull, SeriesPoint


def point(name: str, value: float, step: int, site: str = "", origin: str = ROUND) -> SeriesPoint:
    return SeriesPoint(name=name, value=value, step=step, at=1.0, site=site, origin=origin)


LINES = [
    *(point("accuracy", 0.5 + 0.1 * n, n) for n in (1, 2, 3)),
    *(point("accuracy", 0.4 + 0.1 * n, n, "site-1") for n in (1, 2, 3)),
    *(point("loss", 1.0 / n, n, "site-1", "live") for n in (1, 2, 3, 4)),
    *(point("loss", 2.0, 1, "site-2", "live") for n in range(2)),
    SeriesFull(site="site-2", points=50_000),
]


def job(job_id: str = "j1", state: str = "completed") -> SimpleNamespace:
    return SimpleNamespace(id=job_id, name="heart", state=state)


class FakeAdmin:
    def job(self, job_id):
        return job(job_id)

    def series(self, job_id, *, follow=False, on_retry=None):
        yield LINES[:4]
        yield LINES[4:]


@pytest.fixture(autouse=True)
def acting(monkeypatch, tmp_path):
    monkeypatch.setattr(jobplot, "acting", lambda: contextlib.nullcontext(FakeAdmin()))
    monkeypatch.chdir(tmp_path)


def run(*words: str):
    return CliRunner().invoke(jobplot.plot, list(words))


def test_curves_are_per_site_and_global_and_say_what_their_axis_counts():
    found = make_curves(job(), LINES)
    assert [(c.name, c.origin, c.site, c.axis, c.steps) for c in found.curves] == [
        ("accuracy", "round", "", "round", (1, 2, 3)),
        ("accuracy", "round", "site-1", "round", (1, 2, 3)),
        ("loss", "live", "site-1", "step", (1, 2, 3, 4)),
        ("loss", "live", "site-2", "point", (1, 2)),
    ]
    assert found.full == ("site-2",)
    assert {curve.site for curve in make_curves(job(), LINES, sites=["site-2"]).curves} == {"", "site-2"}
    assert {curve.name for curve in make_curves(job(), LINES, names=["loss"]).curves} == {"loss"}


def test_without_o_the_file_is_the_jobs(tmp_path):
    found = run("j1")
    assert found.output.strip() == "j1.png"
    assert Path("j1.png").read_bytes().startswith(b"\x89PNG")
    again = run("j1")
    assert isinstance(again.exception, Conflict)
    assert run("j1", "--force").exit_code == 0


def test_a_server_that_names_a_job_oddly_chooses_no_place_and_clears_no_screen(tmp_path, monkeypatch):
    odd = job("../up\x1b[2J")
    monkeypatch.setattr(FakeAdmin, "job", lambda _self, _id: odd)
    found = run("j1")
    assert found.output.strip() == "___up__2_.png"
    assert [path.name for path in tmp_path.iterdir()] == ["___up__2_.png"]
    assert "\x1b" not in run("j1", "--text").output


def test_the_title_of_several_jobs_is_not_cut_off_at_the_edges():
    image = pytest.importorskip("matplotlib.image")
    names = ["a-study-with-a-long-name-" + "x" * 38, "heart", "lung"]
    jobs = [
        SimpleNamespace(id=f"1ry66gqmeg0{n}", name=name, state="completed") for n, name in enumerate(names)
    ]
    picture = image.imread(
        io.BytesIO(draw_curves([make_curves(one, LINES, names=["accuracy"]) for one in jobs]))
    )
    head = picture[:60, :, :3]
    assert head.min() < 0.5
    assert head[:, :3].min() > 0.99
    assert head[:, -3:].min() > 0.99


def test_an_svg_holds_title_labels_and_legend_and_is_the_same_each_time():
    curves = (make_curves(job(), LINES),)
    picture = draw_curves(curves, "svg")
    assert picture == draw_curves(curves, "svg")
    text = picture.decode()
    assert "heart  j1  (completed)" in text
    for label in ("accuracy", "loss (live)", "global", "site-1", "round", "later points were dropped"):
        assert f"<!-- {label}" in text or label in text


def test_several_jobs_are_compared_by_their_global_curves():
    jobs = [make_curves(job(name), LINES) for name in ("j1", "j2")]
    text = draw_curves(jobs, "svg").decode()
    assert "<!-- heart j1 -->" in text
    assert "<!-- heart j2 -->" in text
    assert "<!-- heart j1 site-1 -->" in text  # of the loss, which is nobody's globally
    assert run("j1", "j2", "--metric", "accuracy", "-o", "both.png").output.strip() == "both.png"


def test_json_has_the_numbers():
    found = json.loads(run("j1", "--metric", "loss", "--sites", "site-1", "--json").output)
    (curve,) = found["jobs"][0]["curves"]
    assert (curve["site"], curve["values"]) == ("site-1", [1.0, 0.5, 1 / 3, 0.25])


def test_json_that_is_followed_is_a_line_per_number():
    rows = [
        json.loads(row) for row in run("j1", "--json", "--follow", "--metric", "accuracy").output.splitlines()
    ]
    assert [row["value"] for row in rows if not row["site"]] == pytest.approx([0.6, 0.7, 0.8])


def test_text_curves_stand_where_the_numbers_are():
    chart = text_curves([make_curves(job(), LINES, names=["accuracy"])]).splitlines()
    top = next(row for row in chart if row.startswith("0.8 |"))
    assert top.rstrip().endswith("*")
    bottom = next(row for row in chart if row.startswith("0.5 |"))
    assert bottom.startswith("0.5 |a")
    assert "* global 0.8" in "\n".join(chart)
    assert "site-2: later points were dropped" in chart


@pytest.mark.parametrize("values", [(0.0, 0.0), (1e308, -1e308), (-1e308, 1e308), (5e-324, 0.0)])
def test_text_takes_any_numbers(values):
    lines = [point("x", value, step) for step, value in enumerate(values, 1)]
    assert "x (round)" in text_curves([make_curves(job(), lines)])


def test_numbers_that_no_axis_has_room_for_are_refused():
    pytest.importorskip("matplotlib")
    lines = [point("x", 1e308, 1), point("x", -1e308, 2)]
    with pytest.raises(ProtocolError, match="cannot be drawn"):
        draw_curves([make_curves(job(), lines)])


def test_follow_ends_with_all_of_it():
    assert "later points were dropped" in run("j1", "--follow", "--text").output
    assert run("j1", "--follow", "-o", "x.svg").output.strip() == "x.svg"


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["j1", "--metric", "acuracy"], NotFound, "it has: accuracy, loss"),
        (["j1", "--sites", "nowhere"], NotFound, "it has: site-1, site-2"),
        (["j1", "-o", "x.pdf"], Misuse, "neither .png nor .svg"),
        (["j1", "-o", "gone/x.png"], NotFound, "there is no folder gone"),
        (["j1", "j2", "--follow"], Misuse, "draws one job"),
        (["j1", "--text", "-o", "x.png"], Misuse, "leave one of them out|into a file"),
    ],
)
def test_mistakes_are_named(words, error, text):
    found = run(*words)
    assert isinstance(found.exception, error), found.output
    assert pytest.importorskip("re").search(text, str(found.exception))


def test_without_matplotlib_it_is_text_and_with_o_an_error(monkeypatch):
    monkeypatch.setattr(jobplot, "find_spec", lambda _: None)
    found = run("j1")
    assert "* global" in found.output
    assert "pip install 'flprov[plot]'" in found.output
