# SPDX-License-Identifier: Apache-2.0
"""Homomorphic encryption: the server averages what it cannot read. docs/workflows/fedavg-he.md is for users.

Start reading at `ckks.py` (the mathematics' edge), `ciphertexts.py` (a model in pieces), `exchange.py`
and `tasks.py` (how the sites come to one key), `envelope.py` (what happens at a site).
"""
