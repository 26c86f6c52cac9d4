# SPDX-License-Identifier: Apache-2.0
"""Proxies by name: how they are written, who goes before whom, and that their passwords stay unread."""

from __future__ import annotations

import re

import pytest

from flprov.project import DIRECT, Proxy, Route, load_project, parse_proxy, route_from, sample_project

PARSED = {
    "http://proxy.example:3128": ("proxy.example", 3128, "", ""),
    "proxy.example:3128": ("proxy.example", 3128, "", ""),
    "http://PROXY.Example:3128/": ("proxy.example", 3128, "", ""),
    "http://proxy.example": ("proxy.example", 80, "", ""),
    "http://192.0.2.1:8080": ("192.0.2.1", 8080, "", ""),
    "http://[2001:db8::1]:8080": ("2001:db8::1", 8080, "", ""),
    "http://[2001:db8::1]": ("2001:db8::1", 80, "", ""),
    "http://kim:s3cret@proxy.example:1": ("proxy.example", 1, "kim", "s3cret"),
    "kim:s3cret@proxy.example:1": ("proxy.example", 1, "kim", "s3cret"),
    "http://kim@proxy.example:1": ("proxy.example", 1, "kim", ""),
    "http://a%40b:p%3A%2F%25w@proxy.example:1": ("proxy.example", 1, "a@b", "p:/%w"),
    "http://kim:a/b@c#d@proxy.example:1": ("proxy.example", 1, "kim", "a/b@c#d"),
    "http://kim:p%C3%A4ss@proxy.example:1": ("proxy.example", 1, "kim", "päss"),
}


@pytest.mark.parametrize("text", PARSED)
def test_spellings(text):
    found = parse_proxy(text)
    assert found is not None
    assert (found.host, found.port, found.user, found.password) == PARSED[text]
    assert parse_proxy(found.secret_url) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://kim:s3cret@proxy.example:1",
        "socks5://kim:s3cret@proxy.example:1",
        "http://kim:s3cret@",
        "http://kim:s3cret@proxy.example:0",
        "http://kim:s3cret@proxy.example:99999",
        "http://kim:s3cret@proxy.example:1/path",
        "http://kim:s3cret@pro xy.example:1",
        "http://kim:s3cret@2001:db8::1:80",
        "http://kim:s3cret%0d%0aX-Evil: 1@proxy.example:1",
        "kim:s3cret",
        "http://",
        "",
    ],
)
def test_what_is_no_proxy_is_refused_without_repeating_a_password(text):
    with pytest.raises(ValueError, match=r".") as caught:
        parse_proxy(text)
    assert "s3cret" not in str(caught.value)


def test_the_password_is_in_no_text():
    proxy = parse_proxy("http://kim:s3cret@proxy.example:3128")
    route = Route(proxy=proxy, source="site.yml")
    told = f"{proxy} {proxy!r} {route} {route!r}"
    assert "s3cret" not in told
    assert "kim" not in told
    assert str(route) == "http://proxy.example:3128 (from site.yml, with a password)"
    assert str(DIRECT) == "none"
    assert str(Route(source="site.yml")) == "none (says site.yml)"


ENVIRONMENTS = [
    ({}, None),
    ({"HTTPS_PROXY": ""}, None),
    ({"HTTP_PROXY": "http://a:1", "http_proxy": "http://a:1", "ALL_PROXY": "http://a:1"}, None),
    ({"https_proxy": "http://a:1"}, "http://a:1 (from https_proxy)"),
    ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "http://a:1 (from HTTPS_PROXY)"),
    ({"FLPROV_PROXY": "http://f:1", "HTTPS_PROXY": "http://a:1"}, "http://f:1 (from FLPROV_PROXY)"),
    ({"FLPROV_PROXY": "none", "HTTPS_PROXY": "http://a:1"}, "none (says FLPROV_PROXY)"),
]


@pytest.mark.parametrize(("environment", "wanted"), ENVIRONMENTS)
def test_the_environment_in_its_order(environment, wanted):
    found = route_from(environment)
    assert (None if found is None else str(found)) == wanted


def test_a_mistake_in_the_environment_names_the_variable_and_no_password():
    with pytest.raises(ValueError, match=r"^HTTPS_PROXY: flprov speaks to HTTP proxies only") as caught:
        route_from({"HTTPS_PROXY": "socks5://kim:s3cret@a:1"})
    assert "s3cret" not in str(caught.value)


DIRECTLY = [
    ("", "localhost", True),
    ("", "127.0.0.1", True),
    ("", "127.8.8.8", True),
    ("", "::1", True),
    ("", "fl.example.org", False),
    ("*", "fl.example.org", True),
    ("example.org", "fl.example.org", True),
    ("example.org", "example.org", True),
    (".example.org", "fl.example.org", True),
    ("*.example.org", "fl.example.org", True),
    ("EXAMPLE.org", "FL.example.ORG", True),
    ("example.org", "notexample.org", False),
    ("example.org:8443", "fl.example.org", True),
    ("example.org:443", "fl.example.org", False),
    ("10.0.0.0/8", "10.1.2.3", True),
    ("10.0.0.0/8", "11.1.2.3", False),
    ("10.1.2.3", "10.1.2.3", True),
    ("10.1.2.3:8443", "10.1.2.3", True),
    ("10.1.2.3:1", "10.1.2.3", False),
    ("2001:db8::/32", "2001:db8::7", True),
    ("[2001:db8::7]:8443", "2001:db8::7", True),
    ("a.example, b.example c.example", "b.example", True),
    (",", "fl.example.org", False),
]


@pytest.mark.parametrize(("no_proxy", "host", "directly"), DIRECTLY)
def test_no_proxy(no_proxy, host, directly):
    route = route_from({"HTTPS_PROXY": "http://a:1", "no_proxy": no_proxy})
    assert route is not None
    assert (route.proxy_for(host, 8443) is None) == directly


@pytest.mark.parametrize("port", ["\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_what_is_no_port_in_no_proxy_means_nobody(port):
    route = route_from({"HTTPS_PROXY": "http://a:1", "NO_PROXY": f"fl.example:{port}"})
    assert route.proxy_for("fl.example", 8443) is not None


def test_flprovs_own_variable_knows_no_exceptions():
    route = route_from({"FLPROV_PROXY": "http://a:1", "NO_PROXY": "*"})
    assert route is not None
    assert route.proxy_for("localhost", 1) == Proxy(host="a", port=1)


# ---- in project.yml ----------------------------------------------------------------------------


def load(tmp_path, proxy: str):
    text = sample_project().decode()
    path = tmp_path / "project.yml"
    line = "  - {name: hospital-b, org: org-b}"
    assert line in text
    path.write_text(text.replace(line, f"  - {{name: hospital-b, org: org-b, proxy: {proxy}}}"))
    return load_project(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"http://proxy.b.example:3128"', "http://proxy.b.example:3128"),
        ('"Proxy.b.example"', "http://proxy.b.example:80"),
        ("none", "none"),
    ],
)
def test_a_sites_proxy(tmp_path, written, read):
    assert [site.proxy for site in load(tmp_path, written).sites] == ["", read, ""]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('"http://kim:s3cret@proxy.example:1"', "must not hold a user name or password"),
        ('"http://kim@proxy.example:1"', "must not hold a user name or password"),
        ('"socks5://kim:s3cret@proxy.example:1"', "flprov speaks to HTTP proxies only, not socks5"),
        ('"kim:s3cret"', "this is not the address of a proxy"),
        ("[a]", "proxy"),
    ],
)
def test_a_sites_proxy_that_will_not_do(tmp_path, written, words):
    with pytest.raises(Exception, match=re.escape(words)) as caught:
        load(tmp_path, written)
    assert re.search(r"project\.yml:\d+: ", str(caught.value))
    assert "s3cret" not in str(caught.value)
