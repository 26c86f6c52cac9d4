# SPDX-License-Identifier: Apache-2.0
"""An attempt to join on the hospital's disk: the same key after every accident, a whole kit or none."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from join_parties import SITE, Issuing, answer_to
from kit_parties import NOW

from flprov._base import hold_lock
from flprov.errors import Conflict, FlprovError, IdentityRefused, Misuse, NotFound
from flprov.kits import encode_invitation, load_kit, open_attempt

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def issuing(provisioned):
    return Issuing(provisioned)


@pytest.fixture(scope="module")
def line(issuing):
    return encode_invitation(issuing.invitation())


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / SITE.name


def begin(place, line) -> str:
    """Begin and die; the key's fingerprint."""
    with open_attempt(place, line) as attempt:
        return attempt.fingerprint


def finish(issuing, place, line, now=NOW):
    with open_attempt(place, line) as attempt:
        answer = answer_to(issuing, attempt)
        attempt.keep_answer(answer, now=now)
        return attempt.finish(answer, now=now)


def test_a_whole_kit_is_put_in_place_and_nothing_else_is_left(issuing, place, line):
    kit, aside = finish(issuing, place, line)
    assert (kit.folder, kit.identity, aside) == (place, SITE, None)
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_what_is_begun_is_private(place, line):
    begin(place, line)
    folder = place.with_name(f"{place.name}.joining")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "key.pem": 0o600,
        "invite": 0o600,
        "lock": 0o600,
    }


def test_the_same_invite_goes_on_with_the_same_key(place, line):
    assert begin(place, line) == begin(place, line) == begin(place, f"  {line}\n")


def test_another_invite_for_the_same_site_begins_anew(issuing, place, line):
    other = encode_invitation(issuing.invitation(invite="f" * 16))
    assert begin(place, line) != begin(place, other)


def test_a_begun_join_of_another_site_is_not_overwritten(issuing, place, line):
    mark = begin(place, line)
    other = encode_invitation(issuing.invitation(replace(SITE, name="hospital-e")))
    with pytest.raises(Conflict, match="holds the begun join of"):
        begin(place, other)
    assert begin(place, line) == mark


def test_a_key_without_its_invite_was_never_used(place, line):
    mark = begin(place, line)
    (place.with_name(f"{place.name}.joining") / "invite").unlink()
    assert begin(place, line) != mark


def test_the_place_is_named_after_the_site_when_none_is_given(place, line):
    with open_attempt(None, line) as attempt:
        assert attempt.kit == place


def test_an_invite_for_another_site_than_asked_for_is_refused_and_leaves_nothing(place, line):
    with (
        pytest.raises(Conflict, match="for site hospital-d, not for hospital-a"),
        open_attempt(place, line, site="hospital-a"),
    ):
        raise AssertionError
    assert list(place.parent.iterdir()) == []


def test_without_a_line_the_one_that_was_begun_is_taken(place, line):
    mark = begin(place, line)
    for where in (place, None):
        with open_attempt(where, None) as attempt:
            assert attempt.fingerprint == mark


def test_without_a_line_and_nothing_begun_there_is_nothing_to_do(place):
    for where in (place, None):
        with pytest.raises(NotFound, match="no join was begun"), open_attempt(where, None):
            raise AssertionError


def test_of_several_that_were_begun_one_must_be_named(place, line):
    begin(place, line)
    begin(place.with_name("other"), line)
    with pytest.raises(Misuse, match="several joins were begun here"), open_attempt(None, None):
        raise AssertionError


def test_two_at_once_do_not_disturb_each_other(place, line):
    mark = begin(place, line)
    folder = place.with_name(f"{place.name}.joining")
    with hold_lock(folder / "lock"), pytest.raises(Conflict, match="another `flprov join` is at work"):
        begin(place, line)
    assert begin(place, line) == mark


# ---- answers ----------------------------------------------------------------------------------


def test_an_answer_that_came_is_found_again(issuing, place, line):
    with open_attempt(place, line) as attempt:
        assert attempt.kept_answer(now=NOW) is None
        answer = answer_to(issuing, attempt)
        attempt.keep_answer(answer, now=NOW)
    with open_attempt(place, line) as attempt:
        assert attempt.kept_answer(now=NOW) == answer


def test_an_answer_that_is_not_what_was_asked_for_is_not_kept(issuing, place, line):
    with open_attempt(place, line) as attempt:
        wrong = issuing.answer(attempt.private_pem, replace(SITE, name="hospital-e"))
        with pytest.raises(IdentityRefused):
            attempt.keep_answer(wrong, now=NOW)
        with pytest.raises(IdentityRefused):
            attempt.finish(wrong, now=NOW)
    assert not place.exists()
    assert not (place.with_name(f"{place.name}.joining") / "answer.json").exists()


def test_a_damaged_answer_is_asked_for_again(issuing, place, line):
    with open_attempt(place, line) as attempt:
        attempt.keep_answer(answer_to(issuing, attempt), now=NOW)
        (attempt.folder / "answer.json").write_bytes(b"half")
        assert attempt.kept_answer(now=NOW) is None


def test_an_answer_to_another_key_is_not_taken(issuing, place, line):
    with open_attempt(place, line) as attempt:
        attempt.keep_answer(answer_to(issuing, attempt), now=NOW)
        kept = (attempt.folder / "answer.json").read_bytes()
    (place.with_name(f"{place.name}.joining") / "invite").unlink()
    with open_attempt(place, line) as attempt:
        (attempt.folder / "answer.json").write_bytes(kept)
        assert attempt.kept_answer(now=NOW) is None


# ---- accidents while the kit is put in place ------------------------------------------------------


def test_a_half_written_kit_is_made_anew(issuing, place, line):
    with open_attempt(place, line) as attempt:
        staged = attempt.folder / "kit"
        staged.mkdir()
        (staged / "kit.yml").write_text("half")
    kit, _ = finish(issuing, place, line)
    assert kit.identity == SITE


def test_a_run_that_died_after_the_kit_was_in_place_is_finished_by_the_next(issuing, place, line):
    with open_attempt(place, line) as attempt:
        answer = answer_to(issuing, attempt)
        attempt.keep_answer(answer, now=NOW)
        saved = place.with_name("saved")
        shutil.copytree(attempt.folder, saved)
        attempt.finish(answer, now=NOW)
        before = (place / "manifest.json").read_bytes()
        saved.rename(attempt.folder)
    with open_attempt(place, line) as attempt:
        answer = attempt.kept_answer(now=NOW)
        kit, aside = attempt.finish(answer, now=NOW)
    assert aside is None
    assert (place / "manifest.json").read_bytes() == before
    assert not attempt.folder.exists()
    assert kit.identity == SITE


# ---- what lies there already ----------------------------------------------------------------------


def look(place, line, now):
    with open_attempt(place, line) as attempt:
        return attempt.find_valid_kit(now=now)


def test_an_expired_kit_of_the_same_site_is_moved_aside_and_its_own_files_stay(issuing, place, line):
    issuing.join(place, days=1.0)
    local = place.with_name(f"{place.name}.local")
    local.mkdir()
    (local / "policy.yml").write_text("mine")
    later = NOW + 2 * DAY
    assert look(place, line, later) is None
    with open_attempt(place, line) as attempt:
        attempt.verify_place(now=later)
    kit, aside = finish(issuing, place, line, now=later)
    assert aside == place.with_name(f"{place.name}.old-2026-03-03")
    assert load_kit(aside, now=later).identity == SITE
    assert kit.not_after > later
    assert (kit.local / "policy.yml").read_text() == "mine"


def test_a_second_kit_of_the_same_day_is_moved_aside_under_another_name(issuing, place, line):
    issuing.join(place, days=1.0)
    place.with_name(f"{place.name}.old-2026-03-03").mkdir()
    _, aside = finish(issuing, place, line, now=NOW + 2 * DAY)
    assert aside.name == f"{place.name}.old-2026-03-03-120000"


def test_a_kit_that_is_still_good_by_its_dates_is_found(issuing, place, line):
    issuing.join(place)
    with (
        pytest.raises(Conflict, match="its certificate has not expired"),
        open_attempt(place, line) as attempt,
    ):
        attempt.verify_place(now=NOW)
    assert not place.with_name(f"{place.name}.joining").exists()
    assert look(place, line, NOW).identity == SITE


def test_whatever_else_lies_there_is_left_alone(issuing, place, line, workspace):
    def refused() -> str:
        with pytest.raises(Conflict) as caught:
            look(place, line, NOW)
        assert "mv " in str(caught.value.hint)
        return str(caught.value)

    place.write_text("a file")
    assert "no good kit" in refused()
    place.unlink()
    place.mkdir()
    assert "no good kit" in refused()
    place.rmdir()
    for name in ("hospital-a", "server", "alice"):
        shutil.copytree(workspace / "kits" / name, place)
        assert "is there already" in refused()
        shutil.rmtree(place)
    place.symlink_to(place.parent / "nowhere")
    assert "no good kit" in refused()


@pytest.mark.parametrize("trap", ["open", "linked", "a file"])
def test_what_somebody_else_has_put_there_first_holds_no_key(place, line, trap):
    folder = place.with_name(f"{place.name}.joining")
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "linked":
        folder.symlink_to(elsewhere)
    elif trap == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.write_text("")
    with pytest.raises((Conflict, FileExistsError), match=r"there already|File exists"):
        begin(place, line)
    assert not list(elsewhere.iterdir())
    assert not folder.is_dir() or not list(folder.iterdir())


def test_the_root_of_the_disk_is_no_place_for_a_kit(place, line):
    for given in (line, None):
        with pytest.raises(Misuse, match="/ cannot be a kit"):
            begin(Path("/"), given)


def test_a_place_that_cannot_be_written_says_so(place, line):
    blocked = place.parent / "file"
    blocked.write_text("")
    with pytest.raises((FlprovError, OSError)):
        begin(blocked / "kit", line)
