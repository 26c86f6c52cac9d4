# SPDX-License-Identifier: Apache-2.0
"""From here to the server, stage by stage, for each endpoint: name, TCP, proxy, TLS, and its greeting."""

from __future__ import annotations

import asyncio

from flprov._base import Clock
from flprov.doctor.patient import Patient
from flprov.doctor.rows import Rows, ok, problem, skipped, soften
from flprov.errors import FlprovError, PermissionRefused
from flprov.pki import Anchors, Kind
from flprov.rpc import Cause, ProbeResult, Stage, connect, methods, probe
from flprov.wire import pb
from flprov.wire.documents import DoctorRow

_MOST = 16  # endpoints; a kit that was tampered with could list thousands
_LEAST = 0.5  # seconds for the one call, however long the way there took
_NAMES = {
    Stage.NAME: "name",
    Stage.TCP: "tcp",
    Stage.PROXY: "proxy",
    Stage.TLS: "tls",
    Stage.GREETING: "server",
}


async def check_network(patient: Patient, *, clock: Clock, patience: float) -> Rows:
    """Each endpoint that the kit names, side by side. Only our certificate is shown there, no secret."""
    endpoints = patient.kit.endpoints[:_MOST]
    if not endpoints:
        return (problem("name", "the kit names no endpoint that can be read", "see the row of the kit"),)
    found = await asyncio.gather(*(_probe(patient, endpoint, clock, patience) for endpoint in endpoints))
    working = [endpoint for endpoint, (works, _) in zip(endpoints, found, strict=True) if works]
    rows = []
    for works, some in found:
        rows += [_soften(row, patient, working) if not works else row for row in some]
    return (*_describe_route(patient), *rows)


def _describe_route(patient: Patient) -> Rows:
    if patient.route.proxy is None:
        return (skipped("proxy", f"{patient.route}: the server is dialled directly"),)
    return (ok("proxy", str(patient.route)),)


def _soften(row: DoctorRow, patient: Patient, working: list[str]) -> DoctorRow:
    if working:
        return soften(row, f"{working[0]} works")
    if patient.kit.kind is Kind.SERVER:
        return soften(row, "seen from the server's own machine: sites may see it otherwise")
    return row


async def _probe(patient: Patient, endpoint: str, clock: Clock, patience: float) -> tuple[bool, Rows]:
    """Whether it works, and what was seen."""
    chain, private = patient.own()
    anchors = patient.kit.server_anchors
    until = asyncio.get_running_loop().time() + patience
    try:
        result = await probe(
            endpoint,
            chain_pem=chain,
            private_pem=private,
            server_anchors=anchors,
            route=patient.route,
            clock=clock,
            timeout=patience,
        )
    except FlprovError as error:  # an endpoint that is none
        return False, (problem("name", str(error), error.hint or "", subject=endpoint),)
    rows = _rows_of(patient, endpoint, result)
    if result.cause is not Cause.FINE or anchors is None:
        return False, rows
    left = max(_LEAST, until - asyncio.get_running_loop().time())
    refusal = await _ask(patient, endpoint, anchors, clock, left) if private else None
    if refusal is None:
        return True, rows
    name = _NAMES[Stage.GREETING]
    said = problem(name, str(refusal), refusal.hint or "", subject=endpoint)
    return False, (*(row for row in rows if row.name != name), said)


async def _ask(
    patient: Patient, endpoint: str, anchors: Anchors, clock: Clock, patience: float
) -> FlprovError | None:
    """What the server has against us. A handshake does not tell: what is revoked is refused when it calls.

    A person may make this call; a site may not, and hears about its certificate first.
    """
    chain, private = patient.own()
    try:
        connection = connect(
            (endpoint,),
            chain_pem=chain,
            private_pem=private,
            server_anchors=anchors,
            route=patient.route,
            clock=clock,
            connect_timeout=patience,
        )
        try:
            await connection.unary(methods.STATUS, pb.Query(), timeout=patience)
        finally:
            await connection.close()
    except PermissionRefused:
        return None
    except FlprovError as error:
        return error
    return None


def _rows_of(patient: Patient, endpoint: str, result: ProbeResult) -> Rows:
    passed = {step.stage: step.found for step in result.steps}
    host, _, port = endpoint.rpartition(":")
    through = patient.route.proxy_for(host.strip("[]"), int(port)) is not None
    rows = []
    failed = False
    for stage, name in _NAMES.items():
        if stage is Stage.PROXY and not through:
            continue
        if stage in passed:
            rows.append(ok(name, passed[stage], subject=endpoint))
        elif result.error is not None and not failed:
            failed = True
            rows.append(problem(name, str(result.error), result.error.hint or "", subject=endpoint))
        else:
            why = "not reached" if failed else _why_not(patient, stage)
            rows.append(skipped(name, why, subject=endpoint))
    return tuple(rows)


def _why_not(patient: Patient, stage: Stage) -> str:
    if patient.kit.server_anchors is None:
        return f"whom to believe is not known: {patient.kit.anchors_problem}"
    return patient.why_not_own() if stage is Stage.GREETING else "not reached"
