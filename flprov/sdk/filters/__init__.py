# SPDX-License-Identifier: Apache-2.0
"""Filters that come with flprov: what bounds, blurs, rounds or leaves out part of an update.

`flprov.sdk.filtering` finds them by the names in job.yml; docs/filters.md is for users.
"""

from flprov.sdk.filters.privacy import gaussian_delta, gaussian_epsilon, gaussian_sigma
from flprov.sdk.filters.registry import FILTERS, Filter

__all__ = ["FILTERS", "Filter", "gaussian_delta", "gaussian_epsilon", "gaussian_sigma"]
