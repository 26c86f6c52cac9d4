# SPDX-License-Identifier: Apache-2.0
"""The life of identities at the server: joined, renewed, locked, revoked; and whom it believes.

Start reading at `surroundings.py` (what the services share). Each service answers one group of calls:
`partyservice.py` (sites, people, certificates), `inviteservice.py` (invites and joining),
`renewalservice.py` (renewals) and `trustservice.py` (trust bundles, rotation of the CA).
"""

from flprov.server.identities.identities import Identities

__all__ = ["Identities"]
