# SPDX-License-Identifier: Apache-2.0
"""CONNECT (RFC 9110 section 9.3.6): through an HTTP proxy to the server, and why the proxy will not have it.

gRPC opens its own tunnels (`grpc_settings.channel_options`); this one is for the probe that goes before.
Every failure is one that may pass: proxies are mended, and a site waits for that. What the proxy
writes is never repeated: its page may hold anything.
"""

from __future__ import annotations

import asyncio
import base64
import http
import re
import socket

from flprov.errors import ServerUnavailable
from flprov.project import Proxy
from flprov.rpc.findings import Cause, Found

_LARGEST_ANSWER = 16 << 10
_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_SCHEMES = re.compile(rb"^proxy-authenticate:[ \t]*([A-Za-z]+)", re.IGNORECASE | re.MULTILINE)
_LOGINS = ("Basic", "Digest", "NTLM", "Negotiate", "Bearer", "Kerberos")  # names that we repeat

_NOT_HTTP = "is this the address and port of the HTTP proxy? Its owners know"
_GIVE_LOGIN = (
    "write it into site.yml, mode 0600: `proxy: http://USER:PASSWORD@HOST:PORT`; people: into FLPROV_PROXY"
)
_REACH = {
    502: "the server may be down, or the proxy may not know its name",
    503: "the server may be down, or the proxy has too much to do",
    504: "the server may be down, or a firewall behind the proxy drops packets",
}


async def open_tunnel(connected: socket.socket, proxy: Proxy, target: str) -> None:
    """Ask the proxy at the other end of `connected` for a tunnel to `target` ("host:port").

    Raises:
        Found: it gives none; whose fault that is and what to do.
    """
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(connected, _request(proxy, target))
        answer = await _read_answer(connected)
    except OSError as error:
        raise _unreachable(f"the proxy {proxy} hung up ({error.strerror or error})", _NOT_HTTP) from error
    status = _STATUS.match(answer)
    if not answer:
        raise _unreachable(f"the proxy {proxy} hung up without an answer", _NOT_HTTP)
    if status is None or (status[1][0:1] == b"2" and not answer.endswith(_END)):
        text = f"what listens at {proxy} does not answer as an HTTP proxy does"
        raise Found(Cause.PROXY_NONSENSE, ServerUnavailable(text, hint=_NOT_HTTP))
    if status[1][0:1] != b"2":
        raise _explain(int(status[1]), answer, proxy, target)


def _request(proxy: Proxy, target: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.is_secret:
        login = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()  # RFC 7617
        lines.append(f"Proxy-Authorization: Basic {login}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _read_answer(connected: socket.socket) -> bytes:
    """Up to the empty line: what follows is the server's, which says nothing before we do."""
    loop = asyncio.get_running_loop()
    answer = b""
    while _END not in answer and len(answer) < _LARGEST_ANSWER:
        data = await loop.sock_recv(connected, _LARGEST_ANSWER - len(answer))
        if not data:
            break
        answer += data
        if not b"HTTP/1.".startswith(answer[:7]):
            break
    return answer


def _unreachable(text: str, hint: str) -> Found:
    return Found(Cause.PROXY_UNREACHABLE, ServerUnavailable(text, hint=hint))


def _explain(status: int, answer: bytes, proxy: Proxy, target: str) -> Found:
    said = _phrase(status)
    login = http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
    if status == login or (status == http.HTTPStatus.UNAUTHORIZED and proxy.is_secret):
        return _explain_login(status, answer, proxy)  # tinyproxy says 401 to a wrong password
    if status in _REACH:
        text = f"the proxy {proxy} cannot reach {target} ({said})"
        return Found(Cause.PROXY_REFUSED, ServerUnavailable(text, hint=_REACH[status]))
    if 300 <= status < 400:
        text = f"the proxy {proxy} answers with a redirect ({said}), which is not followed"
        hint = "a portal may want somebody to log in first: open any page in a browser on this machine"
        return Found(Cause.PROXY_REFUSED, ServerUnavailable(text, hint=hint))
    text = f"the proxy {proxy} does not let this machine reach {target} ({said})"
    hint = f"ask its owners to allow CONNECT to {target}; what goes through is one TLS connection"
    return Found(Cause.PROXY_REFUSED, ServerUnavailable(text, hint=hint))


def _explain_login(status: int, answer: bytes, proxy: Proxy) -> Found:
    offered = {scheme.decode().lower() for scheme in _SCHEMES.findall(answer)}
    others = [login for login in _LOGINS if login.lower() in offered]
    if others and "Basic" not in others:
        text = f"the proxy {proxy} wants a login by {' or '.join(others)} (407), and flprov speaks Basic only"
        hint = "ask its owners for Basic, or for a rule by which this machine needs no login"
    elif proxy.is_secret:
        text = f"the proxy {proxy} does not take the user name and password that it was given ({status})"
        hint = "check them, and that special characters are written as %40 and the like"
    else:
        text = f"the proxy {proxy} asks for a user name and password (407), and it has none from us"
        hint = _GIVE_LOGIN
    return Found(Cause.PROXY_LOGIN, ServerUnavailable(text, hint=hint))


def _phrase(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
