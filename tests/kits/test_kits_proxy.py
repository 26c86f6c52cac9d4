# SPDX-License-Identifier: Apache-2.0
"""The proxy that the project names for a site: in its kit alone, without a password, after the site's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from kit_parties import NOW, PROJECT, changed_files, contents

from flprov.agent import load_agent_config
from flprov.errors import ConfigError
from flprov.kits import Change, load_kit, plan, provision, sketch_kit
from flprov.project import Route, parse_proxy

URL = "http://proxy.hospital-a.example:3128"
LATER = NOW + timedelta(days=1)
FROM_ENVIRONMENT = Route(proxy=parse_proxy("http://env.example:1"), source="HTTPS_PROXY")


def with_proxy(url: str):
    first, second = PROJECT.sites
    return replace(PROJECT, sites=(replace(first, proxy=url), second))


@pytest.fixture
def proxied(workspace):
    provision(with_proxy(URL), workspace, now=LATER)
    return workspace / "kits" / "hospital-a"


def test_a_proxy_touches_the_kit_of_its_site_alone(workspace):
    found = plan(with_proxy(URL), workspace, now=LATER)
    assert {kit.party.name: kit.change for kit in found.changed} == {"hospital-a": Change.CHANGED}
    assert [kit.details for kit in found.changed] == [(f"proxy: none -> {URL}",)]
    before = contents(workspace / "kits")
    provision(with_proxy(URL), workspace, now=LATER)
    changed = changed_files(before, contents(workspace / "kits"))
    assert changed == {
        f"hospital-a/{name}" for name in ("kit.yml", "manifest.json", "manifest.sig", "signer.pem")
    }
    assert plan(with_proxy(URL), workspace, now=LATER).is_empty


def test_kits_say_the_proxy_and_where_it_stands(proxied):
    assert str(load_kit(proxied, now=LATER).route) == f"{URL} (from kit.yml)"
    assert load_kit(proxied.with_name("hospital-b"), now=LATER).route is None
    assert str(sketch_kit(proxied, now=LATER).route) == f"{URL} (from kit.yml)"


def test_who_goes_before_whom(proxied):
    def chosen(folder) -> str:
        return load_agent_config(folder, now=LATER, route=FROM_ENVIRONMENT).route.source

    other = proxied.with_name("hospital-b")
    assert chosen(proxied) == "kit.yml"
    assert chosen(other) == "HTTPS_PROXY"
    assert str(load_agent_config(other, now=LATER).route) == "none"
    local = proxied.with_name("hospital-a.local")
    local.mkdir()
    (local / "site.yml").write_text("proxy: none\n")
    assert str(load_agent_config(proxied, now=LATER, route=FROM_ENVIRONMENT).route) == "none (says site.yml)"


def test_a_site_yml_with_mistakes_is_not_guessed_around(proxied):
    local = proxied.with_name("hospital-a.local")
    local.mkdir()
    (local / "site.yml").write_text("proxy: http://kim:s3cret@proxy.example:1\n")
    (local / "site.yml").chmod(0o644)
    with pytest.raises(ConfigError, match=r"chmod 600 "):
        load_agent_config(proxied, now=LATER)
