# SPDX-License-Identifier: Apache-2.0
"""The one place that imports grpc, after telling it what it reads from the environment at import.

grpcio has no Python API for TLS versions. With a list that holds only an RSA cipher of TLS 1.2, and our
servers' ECDSA certificates, TLS 1.2 has no cipher in common and only 1.3 is left. The list is read when
grpc is imported: set later, it has no effect (measured with 1.85; tests/rpc/test_rpc_tls.py dials with 1.2).
"""

from __future__ import annotations

import os
import sys

from flprov.errors import LocalError
from flprov.project import Proxy
from flprov.rpc.transport import MESSAGE_LIMIT
from flprov.wire import PROTOCOL

_ENVIRONMENT = {
    "GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384",
    # The core writes a line to stderr for each failed handshake: a port scan would fill the journal.
    "GRPC_VERBOSITY": "NONE",
    # The system's resolver, as everything else on the machine: nsswitch, mDNS, split DNS of a VPN.
    "GRPC_DNS_RESOLVER": "native",
    # Which endpoints go through a proxy is in our own `Route`. These two would have the last word
    # otherwise: the first keeps hosts from it, the second sends them to another (measured with 1.85).
    "no_grpc_proxy": "",
    "GRPC_ADDRESS_HTTP_PROXY": "",
}


def _prepare() -> None:
    """Write the environment. Raises LocalError when grpc came first and would allow TLS 1.2."""
    ciphers = "GRPC_SSL_CIPHER_SUITES"
    if "grpc" in sys.modules and os.environ.get(ciphers) != _ENVIRONMENT[ciphers]:
        raise LocalError(
            "grpc was imported before flprov.rpc, so it would accept TLS 1.2",
            hint="import flprov.rpc first, or set " + f"{ciphers}={_ENVIRONMENT[ciphers]}",
        )
    os.environ.update(_ENVIRONMENT)


_prepare()

import grpc  # noqa: E402
import grpc.aio  # noqa: E402

__all__ = ["EOF", "PROTOCOL_METADATA", "SERVER_OPTIONS", "channel_options", "grpc"]

# What `read` gives at the end; the published type stubs do not know it.
EOF: object = getattr(grpc.aio, "EOF")  # noqa: B009

# On every call, both ways.
PROTOCOL_METADATA = (("flprov-protocol", str(PROTOCOL)),)

# Room for gRPC's own refusal to come after ours, which names the limit.
_RECEIVE_LIMIT = MESSAGE_LIMIT + (64 << 10)
_METADATA_LIMIT = 16 << 10

_COMMON = {
    "grpc.max_receive_message_length": _RECEIVE_LIMIT,
    "grpc.max_send_message_length": _RECEIVE_LIMIT,
    "grpc.max_metadata_size": _METADATA_LIMIT,
    "grpc.absolute_max_metadata_size": _METADATA_LIMIT,
    # What may come in on one call before we read on is ours to say: left to its own measurement gRPC holds
    # 20 MB more in an agent that fetches a large model from the same machine.
    "grpc.http2.bdp_probe": 0,
}
_AHEAD = "grpc.http2.lookahead_bytes"

SERVER_OPTIONS = tuple(
    {
        **_COMMON,
        # 4 MiB of an upload carry 850 Mbit/s where a trip takes 30 ms. Of many senders each has less on the
        # way, see server/shares.py; of one that means harm each of its calls can fill as much.
        _AHEAD: 4 << 20,
        "grpc.so_reuseport": 0,  # a second server on the port fails instead of taking half of the calls
        "grpc.server_handshake_timeout_ms": 10_000,  # the default keeps a silent TCP client 120 s
        "grpc.http2.settings_timeout": 10_000,  # and one that is silent after TLS 60 s
        # Each connection keeps a buffer for one record of TLS. With 4 KiB moving a blob takes a tenth longer.
        "grpc.tsi.max_frame_size": 8 << 10,
        "grpc.max_concurrent_streams": 64,  # per connection; a site has a handful
        # Notices within 20 s that a site lost its power, or its link, without a word.
        "grpc.keepalive_time_ms": 10_000,
        "grpc.keepalive_timeout_ms": 10_000,  # for TCP, which a proxy that stalls goes on answering
        "grpc.http2.ping_timeout_ms": 10_000,  # for the ping; the default of 60 s would have the last word
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,
        "grpc.keepalive_permit_without_calls": 1,
    }.items()
)

_LEAST_AHEAD, _MOST_AHEAD = 2 << 20, 16 << 20  # bytes of one call
_RATE = 125_000_000  # bytes a second: 1 Gbit/s
_CHANNEL: dict[str, int | str] = {
    **_COMMON,
    "grpc.use_local_subchannel_pool": 1,  # two channels are two TCP connections, also to one address
    "grpc.keepalive_time_ms": 10_000,  # while a call is open; see docs/bad-links.md
    "grpc.keepalive_timeout_ms": 10_000,
    "grpc.http2.ping_timeout_ms": 10_000,
    "grpc.http2.max_pings_without_data": 0,  # no limit: a control stream may be silent for hours
    "grpc.client_idle_timeout_ms": 60_000,  # of a bulk connection: 80 KB at the server
    "grpc.initial_reconnect_backoff_ms": 100,  # min_... would be the deadline of one attempt
    "grpc.max_reconnect_backoff_ms": 5_000,
    "grpc.enable_retries": 0,  # what may be repeated, and with which key, is the caller's to know
}


def channel_options(proxy: Proxy | None, trip: float = 0.0) -> tuple[tuple[str, int | str], ...]:
    """How a channel dials: through this proxy, or directly, whatever the environment says.

    Args:
        proxy: the one on the way.
        trip: seconds to the server and back; as much may come ahead as 1 Gbit/s brings meanwhile.

    gRPC takes user name and password out of the URL, undoes %40 and the like, and sends
    `Proxy-Authorization: Basic`. It neither prints the URL nor repeats it in errors.
    """
    through: dict[str, int | str] = {"grpc.enable_http_proxy": 0}
    if proxy is not None:
        through = {"grpc.enable_http_proxy": 1, "grpc.http_proxy": proxy.secret_url}
    ahead = min(max(_LEAST_AHEAD, int(trip * _RATE)), _MOST_AHEAD)
    return tuple({**_CHANNEL, **through, _AHEAD: ahead}.items())
