# SPDX-License-Identifier: Apache-2.0
"""The site's last word: `policy.yml` (who may run what here) and `site.yml` (what is here)."""

from flprov.policy.filterrules import FilterRules
from flprov.policy.logrules import LogRules
from flprov.policy.policy import Ceilings, SitePolicy, load_policy
from flprov.policy.settings import METRICS, SiteSettings, load_site_settings
from flprov.policy.verdict import judge

__all__ = [
    "METRICS",
    "Ceilings",
    "FilterRules",
    "LogRules",
    "SitePolicy",
    "SiteSettings",
    "judge",
    "load_policy",
    "load_site_settings",
]
