# SPDX-License-Identifier: Apache-2.0
"""The proxy in site.yml: read, and its password guarded."""

from __future__ import annotations

import pytest

from flprov.errors import ConfigError
from flprov.policy import load_site_settings


def load(folder, text: str, mode: int = 0o644):
    path = folder / "site.yml"
    path.write_text(text)
    path.chmod(mode)
    return load_site_settings(path).route


def test_a_proxy_is_read_and_says_where_it_stands(tmp_path):
    assert (
        str(load(tmp_path, "proxy: http://proxy.example:3128\n"))
        == "http://proxy.example:3128 (from site.yml)"
    )
    assert str(load(tmp_path, "proxy: none\n")) == "none (says site.yml)"
    assert load(tmp_path, "datasets: {}\n") is None


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_password_is_taken_from_a_private_file(tmp_path, mode):
    route = load(tmp_path, "proxy: http://kim:s3cret@proxy.example:3128\n", mode)
    assert route is not None
    assert route.proxy is not None
    assert route.proxy.password == "s3cret"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_password_in_a_file_that_others_can_read_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "datasets: {}\nproxy: http://kim:s3cret@proxy.example:3128\n", mode)
    told = str(caught.value)
    assert "site.yml:2: the proxy's password stands here, and other users of this machine can read" in told
    assert f"(mode {mode:04o}): chmod 600 {tmp_path / 'site.yml'}" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    "text",
    [
        "proxy: socks5://kim:s3cret@proxy.example:1\n",
        "proxy: 'http://kim:s3cret@proxy.example:1/x'\n",
        "proxy: [http://kim:s3cret@proxy.example:1]\n",
        "proxy: {kim: s3cret}\n",
        "proxy: http://kim:s3cret@a:1\nproxy: http://kim:s3cret@a:1\n",
        "proxy: http://kim:s3cret: x@a:1\n",
        "proxy: http://kim:%s3cret@a:1\n\tx",
        "proxy: @s3cret\n",
        "proxy: %s3cret\n",
        'proxy: "http://kim:s3cret\u202e@a:1"\n',
        "proxy: 's3cret\n",
        "proxi: http://kim:s3cret@a:1\n",
        "proxy:\n",
    ],
)
def test_mistakes_have_a_line_and_repeat_no_password(tmp_path, text):
    with pytest.raises(ConfigError, match=r"site\.yml:[12]: ") as caught:
        load(tmp_path, text, 0o600)
    assert "s3cret" not in str(caught.value)
