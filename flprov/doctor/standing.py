# SPDX-License-Identifier: Apache-2.0
"""The state folder beside a kit, and the process that works with it: whether it runs, and what it says."""

from __future__ import annotations

import os
import socket
import tempfile

from flprov._base import from_document, parse_json, to_iso
from flprov.doctor.patient import Patient
from flprov.doctor.rows import Rows, from_error, ok, problem, skipped, warning
from flprov.errors import ServerUnavailable
from flprov.pki import Kind
from flprov.project import split_address
from flprov.rpc import ask_local
from flprov.wire.documents import ServerDocument, SiteStatusDocument


def check_state(patient: Patient) -> Rows:
    """Whether what must survive can be written."""
    state = patient.kit.local / "state"
    folder = state if state.exists() else next(path for path in state.parents if path.exists())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
    except OSError as error:
        advice = (
            f"run this as the user that runs the process (this is uid {os.geteuid()}), or correct the owner"
        )
        return (problem("state", f"{folder} cannot be written: {error.strerror}", advice),)
    if folder != state:
        return (ok("state", f"{state} is made at the first start"),)
    mode = state.stat().st_mode & 0o777
    if mode & 0o077:
        text = f"{state} is open to other users of this machine (mode {mode:04o})"
        return (warning("state", text, f"chmod 700 {state}"),)
    return (ok("state", f"{state} can be written"),)


def check_process(patient: Patient) -> Rows:
    """Whether an agent or server runs with this kit here, and whether it is well."""
    is_server = patient.kit.kind is Kind.SERVER
    name, noun = ("process", "server") if is_server else ("agent", "site")
    start = f"flprov {noun} start {patient.kit.folder}"
    state = patient.kit.local / "state"
    try:
        if not state.exists():
            raise ServerUnavailable("no state yet")
        answer = parse_json(ask_local(state, what=f"the {noun}", hint=start))
        if is_server:
            server = from_document(ServerDocument, answer)
            return (ok(name, f"the server runs since {to_iso(server.started_at)}, at {server.listen}"),)
        return _describe_agent(from_document(SiteStatusDocument, answer))
    except ServerUnavailable as error:
        if isinstance(error.__cause__, TimeoutError | PermissionError):  # it may run
            return (from_error(name, error),)
        return (skipped(name, "none runs with this kit on this machine now", start), *_check_port(patient))
    except ValueError:
        text = "what runs there is stopping, or of another version of flprov"
        return (warning(name, text, "ask again, or start it again"),)


def _describe_agent(found: SiteStatusDocument) -> Rows:
    since = to_iso(found.link.since)
    if found.connected:
        return (ok("agent", f"it runs and is connected since {since}"),)
    text = f"it runs, and is {found.link.state} since {since}: {found.link.reason or 'no reason yet'}"
    if found.link.state == "refused":  # the reason ends with what to do about it
        advice = "if the server takes this kit's certificate by now, start the agent again; else ask an admin"
        return (problem("agent", text, advice),)
    return (problem("agent", text, "the rows of the endpoints say more"),)


def _check_port(patient: Patient) -> Rows:
    """Whether a server could listen where its kit says."""
    if patient.kit.kind is not Kind.SERVER or not patient.kit.listen:
        return ()
    try:
        host, port = split_address(patient.kit.listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except ValueError as error:
        return (problem("port", f"{patient.kit.listen}: {error}"),)
    except OSError as error:
        text = f"the server could not listen at {patient.kit.listen}: {error.strerror}"
        return (problem("port", text, f"ss -ltnp 'sport = :{port}' shows who does"),)
    return (ok("port", f"{patient.kit.listen} is free"),)
