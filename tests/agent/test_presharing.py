# SPDX-License-Identifier: Apache-2.0
"""The sites' own secret: what a job gets of it, and files that are no secret."""

import pytest

from flprov.agent.presharing import derive_job_secret
from flprov.errors import LocalError, PolicyRefused
from flprov.pki import derive_secret
from flprov.policy import load_site_settings

SECRET = b"c29tZXRoaW5nIHRoYXQgbm9ib2R5IGtub3dz\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "he.secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def test_a_job_gets_what_is_derived_for_it_and_not_the_secret(file):
    one, other = derive_job_secret(file, "job-1"), derive_job_secret(file, "job-2")
    assert one == derive_secret(SECRET.strip(), b"he job-1")
    assert len({one, other, SECRET}) == 3


def test_a_site_without_a_secret_has_none(tmp_path):
    (tmp_path / "site.yml").write_text("datasets: {}\n")
    assert derive_job_secret(load_site_settings(tmp_path / "site.yml").he_secret, "job-1") == b""


def test_site_yml_names_it_relative_to_itself(file, tmp_path):
    (tmp_path / "site.yml").write_text("he_secret: he.secret\n")
    assert load_site_settings(tmp_path / "site.yml").he_secret == file


def test_a_file_that_others_can_read_is_refused(file):
    file.chmod(0o640)
    with pytest.raises(PolicyRefused, match=r"other users .* \(mode 0640\)") as caught:
        derive_job_secret(file, "job-1")
    assert "chmod 600" in (caught.value.hint or "")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"fifteen bytes!!", b"x" * 5000])
def test_what_is_too_short_or_too_long_is_no_secret(file, data):
    file.write_bytes(data)
    with pytest.raises(PolicyRefused, match="a secret has 16 to 4096"):
        derive_job_secret(file, "job-1")


def test_a_file_that_is_not_there_is_said_without_its_path(tmp_path):
    with pytest.raises(LocalError, match="he_secret cannot be read: No such file") as caught:
        derive_job_secret(tmp_path / "gone", "job-1")
    assert str(tmp_path) not in str(caught.value)
