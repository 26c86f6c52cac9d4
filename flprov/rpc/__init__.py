# SPDX-License-Identifier: Apache-2.0
"""Calls between the parties: the method table, who may call, and mTLS transport. The only door to grpc.

What needs grpc is imported when it is first asked for (PEP 562), since grpc takes 90 ms: `flprov --help`
and a worker do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.rpc import methods
    from flprov.rpc.calls import CallCancelled, DialledConnection
    from flprov.rpc.crossing import clean_text, from_report, to_report
    from flprov.rpc.dispatch import Arrival, CallerGone, Dispatcher
    from flprov.rpc.findings import Cause, ProbeResult, Stage
    from flprov.rpc.grpc_client import connect, dialling
    from flprov.rpc.grpc_server import GRPCListener, serve
    from flprov.rpc.inprocess import InProcessNetwork
    from flprov.rpc.local import Hold, ask_local, hold_local, serve_holds, serve_local
    from flprov.rpc.methods import BY_PATH, METHODS, Method, ObjectRule, Shape
    from flprov.rpc.monitoring import Monitored, MonitoringState, serve_monitoring
    from flprov.rpc.prober import probe
    from flprov.rpc.transport import (
        MESSAGE_LIMIT,
        Call,
        Connection,
        DownloadHandler,
        Gate,
        Handler,
        Listener,
        OnRefusal,
        Service,
        StreamHandler,
        UnaryHandler,
    )

_LAZY = {
    "CallCancelled": "calls",
    "DialledConnection": "calls",
    "clean_text": "crossing",
    "from_report": "crossing",
    "to_report": "crossing",
    "Arrival": "dispatch",
    "CallerGone": "dispatch",
    "Dispatcher": "dispatch",
    "BY_PATH": "methods",
    "METHODS": "methods",
    "Method": "methods",
    "ObjectRule": "methods",
    "Shape": "methods",
    "MESSAGE_LIMIT": "transport",
    "Call": "transport",
    "Connection": "transport",
    "DownloadHandler": "transport",
    "Gate": "transport",
    "Handler": "transport",
    "Listener": "transport",
    "OnRefusal": "transport",
    "Service": "transport",
    "StreamHandler": "transport",
    "UnaryHandler": "transport",
    "Cause": "findings",
    "GRPCListener": "grpc_server",
    "InProcessNetwork": "inprocess",
    "ProbeResult": "findings",
    "Stage": "findings",
    "connect": "grpc_client",
    "dialling": "grpc_client",
    "probe": "prober",
    "Hold": "local",
    "ask_local": "local",
    "Monitored": "monitoring",
    "MonitoringState": "monitoring",
    "serve_monitoring": "monitoring",
    "hold_local": "local",
    "serve_holds": "local",
    "serve": "grpc_server",
    "serve_local": "local",
}

__all__ = [
    "BY_PATH",
    "MESSAGE_LIMIT",
    "METHODS",
    "Arrival",
    "Call",
    "CallCancelled",
    "CallerGone",
    "Cause",
    "Connection",
    "DialledConnection",
    "Dispatcher",
    "DownloadHandler",
    "GRPCListener",
    "Gate",
    "Handler",
    "Hold",
    "InProcessNetwork",
    "Listener",
    "Method",
    "Monitored",
    "MonitoringState",
    "ObjectRule",
    "OnRefusal",
    "ProbeResult",
    "Service",
    "Shape",
    "Stage",
    "StreamHandler",
    "UnaryHandler",
    "ask_local",
    "clean_text",
    "connect",
    "dialling",
    "from_report",
    "hold_local",
    "methods",
    "probe",
    "serve",
    "serve_holds",
    "serve_local",
    "serve_monitoring",
    "to_report",
]

__getattr__ = lazy_names(__name__, _LAZY)
