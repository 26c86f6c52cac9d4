# SPDX-License-Identifier: Apache-2.0
"""Bad links for tests and campaigns: real network namespaces with routers that lose, delay, cut and reset.

    server s --- router r1 --- site n1
             \\-- router r2 --- site n2

Each site has a router of its own, which does the harm, so that the queues of the ends are not part of it:
a router's buffer fills, as at a hospital's DSL line. The test's own namespace reaches the server directly.
Needs root, iproute2 and nftables; `missing()` says what is not there.

    with BadLinks(["site-1", "site-2"]) as links:
        network = Network(folder, 2, listen=links.server, host=links.server)  # tests/network/harness.py
        network.command = links.command          # its processes live in there
        links.cut("site-1")                      # both ways, silently
        links.cut("site-1", Way.TO_SITE)         # the site is heard and hears nothing
        links.slow("site-2", kbit=64)
        with links.flapping("site-1", up=2.0, down=2.0): ...
        links.heal("site-1")
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

_LOCKS = Path("/run/flprov-links")
_RELAY = Path(__file__).with_name("relay.py")
_RELAY_PORT = 9
_RELAY_MARK = 77
_MOST_RIGS = 100


class Way(enum.Enum):
    """Which packets are meant, seen from the router."""

    BOTH = "both"
    TO_SERVER = "to_server"
    TO_SITE = "to_site"


_CHAINS = {
    Way.BOTH: ("to_server", "to_site"),
    Way.TO_SERVER: ("to_server",),
    Way.TO_SITE: ("to_site",),
}

_TABLE = """
add table inet bad
add chain inet bad to_server
add chain inet bad to_site
add chain inet bad forward { type filter hook forward priority 0; }
add rule inet bad forward iifname "site" jump to_server
add rule inet bad forward iifname "server" jump to_site
"""

_REDIRECT = """
add table ip relay
add chain ip relay output { type nat hook output priority -100; }
add rule ip relay output ip daddr %(server)s meta mark != %(mark)d tcp dport != 0 redirect to :%(port)d
"""


def missing() -> str:
    """What this machine lacks for bad links; empty when they can be made."""
    if os.geteuid() != 0:
        return "not root"
    tools = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if tools:
        return f"no {', '.join(tools)} here"
    tried = subprocess.run(
        ["unshare", "-n", "nft", "add", "table", "inet", "t"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "the kernel has no network namespaces or no nftables for us"


class BadLinks:
    """A server's namespace, and one for each site with a router between. Gone when the block is left."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._held = contextlib.ExitStack()
        self._number = 0
        self._relays: dict[str, Relay] = {}

    def __enter__(self) -> BadLinks:
        self._number = self._held.enter_context(_own_number())
        _clear(self._number)
        self._held.callback(_clear, self._number)
        try:
            self._build()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    # ---- what is where -------------------------------------------------------------------

    @property
    def server(self) -> str:
        """The server's address, as the sites and the test see it."""
        return f"10.{100 + self._number}.255.1"

    def address(self, site: str) -> str:
        """A site's own address."""
        return f"10.{100 + self._number}.{self._index(site)}.6"

    def namespace(self, party: str) -> str:
        """The name for `ip netns exec` of a site or of "server"."""
        return f"fl{self._number}s" if party == "server" else f"fl{self._number}n{self._index(party)}"

    def router(self, site: str) -> str:
        """The namespace of the router between a site and the server."""
        return f"fl{self._number}r{self._index(site)}"

    def inside(self, party: str, words: Sequence[str]) -> list[str]:
        """A command that runs at a party's place."""
        return ["ip", "netns", "exec", self.namespace(party), *words]

    def command(self, words: list[str]) -> list[str]:
        """For harness.Network.command: the kit's name, the last word, says where it belongs."""
        party = Path(words[-1]).name
        return self.inside(party, words) if party in ("server", *self.names) else words

    def _index(self, site: str) -> int:
        return self.names.index(site) + 1

    # ---- what is done to a link ----------------------------------------------------------

    def cut(self, site: str, way: Way = Way.BOTH) -> None:
        """Drop every packet, silently: as a broken cable or a firewall that forgot the connection."""
        self._rule(site, way, "drop")

    def lose(self, site: str, percent: int, way: Way = Way.BOTH) -> None:
        """Drop so many of a hundred packets, at random."""
        self._rule(site, way, f"{_some(percent)} drop")

    def reset(self, site: str, percent: int = 100, way: Way = Way.BOTH) -> None:
        """Answer so many of a hundred packets with a TCP reset to who sent them."""
        self._rule(site, way, f"meta l4proto tcp {_some(percent)} reject with tcp reset")

    def heal(self, site: str) -> None:
        """Let every packet through again. The rate stays; see `fast`."""
        self._rule(site, Way.BOTH, "")

    def _rule(self, site: str, way: Way, rule: str) -> None:
        lines = []
        for chain in ("to_server", "to_site"):
            lines.append(f"flush chain inet bad {chain}")
            if rule and chain in _CHAINS[way]:
                lines.append(f"add rule inet bad {chain} {rule}")
        self._nft(self.router(site), "\n".join(lines) + "\n")

    def slow(self, site: str, *, kbit: int, buffer_seconds: float = 1.0) -> None:
        """Limit the rate each way; the router keeps `buffer_seconds` of it and drops the rest."""
        limit = max(4500, int(kbit * 125 * buffer_seconds))
        for device in ("server", "site"):
            words = f"tc qdisc replace dev {device} root tbf rate {kbit}kbit burst 3200 limit {limit}"
            _run(["ip", "netns", "exec", self.router(site), *words.split()])

    def fast(self, site: str) -> None:
        """Take the limit of the rate away."""
        for device in ("server", "site"):
            words = ["ip", "netns", "exec", self.router(site), "tc", "qdisc", "del", "dev", device, "root"]
            subprocess.run(words, capture_output=True, check=False)

    @contextlib.contextmanager
    def flapping(self, site: str, *, up: float, down: float, way: Way = Way.BOTH) -> Iterator[None]:
        """Cut and heal in turns, from another thread; the link is whole afterwards."""
        with self._turns(site, down, up, lambda: self.cut(site, way)):
            yield

    @contextlib.contextmanager
    def reset_storm(self, site: str, *, every: float = 1.0, lasting: float = 0.1) -> Iterator[None]:
        """Reset whatever is sent, for `lasting` seconds and again and again."""
        with self._turns(site, lasting, every, lambda: self.reset(site)):
            yield

    @contextlib.contextmanager
    def _turns(self, site: str, bad: float, good: float, harm: object) -> Iterator[None]:
        assert callable(harm)
        enough = threading.Event()

        def turn() -> None:
            while not enough.is_set():
                harm()
                enough.wait(bad)
                self.heal(site)
                enough.wait(good)

        thread = threading.Thread(target=turn, name=f"bad link of {site}")
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()
            self.heal(site)

    def relay(self, site: str) -> Relay:
        """Put a relay into the site's way to the server: from now on new connections go through it."""
        if site not in self._relays:
            relay = Relay(
                self.inside(site, [sys.executable, str(_RELAY), str(_RELAY_PORT), str(_RELAY_MARK)])
            )
            self._held.callback(relay.close)
            values = {"server": self.server, "mark": _RELAY_MARK, "port": _RELAY_PORT}
            self._nft(self.namespace(site), _REDIRECT % values)
            self._relays[site] = relay
        return self._relays[site]

    # ---- building ------------------------------------------------------------------------

    def _build(self) -> None:
        net, server = f"10.{100 + self._number}", self.namespace("server")
        root = f"flroot{self._number}"
        lines = [f"netns add {server}", f"-n {server} link set dev lo up"]
        lines += [f"-n {server} address add {self.server}/32 dev lo"]
        lines += [f"link add {root} type veth peer name test netns {server}"]
        lines += [f"address add {net}.254.1/30 dev {root}", f"link set dev {root} up"]
        lines += [f"-n {server} address add {net}.254.2/30 dev test", f"-n {server} link set dev test up"]
        lines += [f"route add {self.server}/32 via {net}.254.2"]
        for site in self.names:
            lines += self._lines_of(site, net, server)
        _run_ip(lines)
        for site in self.names:
            self._nft(self.router(site), _TABLE)

    def _lines_of(self, site: str, net: str, server: str) -> list[str]:
        here, router, n = self.namespace(site), self.router(site), self._index(site)
        return [
            f"netns add {router}",
            f"netns add {here}",
            f"netns exec {router} sysctl -q -w net.ipv4.ip_forward=1",
            f"link add server netns {router} type veth peer name site{n} netns {server}",
            f"link add site netns {router} type veth peer name up netns {here}",
            f"-n {server} address add {net}.{n}.1/30 dev site{n}",
            f"-n {server} link set dev site{n} up",
            f"-n {router} address add {net}.{n}.2/30 dev server",
            f"-n {router} address add {net}.{n}.5/30 dev site",
            f"-n {router} link set dev server up",
            f"-n {router} link set dev site up",
            f"-n {here} link set dev lo up",
            f"-n {here} address add {net}.{n}.6/30 dev up",
            f"-n {here} link set dev up up",
            f"-n {here} route add default via {net}.{n}.5",
            f"-n {router} route add {self.server}/32 via {net}.{n}.1",
            f"-n {server} route add {net}.{n}.4/30 via {net}.{n}.2",
        ]

    def _nft(self, namespace: str, text: str) -> None:
        _run(["ip", "netns", "exec", namespace, "nft", "-f", "-"], text)


class Relay:
    """A process that passes connections on, and can stop to while it keeps them open."""

    def __init__(self, words: list[str]) -> None:
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._hear("ready")

    def stall(self) -> None:
        """Pass nothing on from now on; no connection is closed, new ones are accepted."""
        self._say("stall")

    def go(self) -> None:
        """Pass on what came meanwhile, and everything after it."""
        self._say("go")

    def _say(self, word: str) -> None:
        _pipe(self._process.stdin).write(word + "\n")
        _pipe(self._process.stdin).flush()
        self._hear(word)

    def _hear(self, word: str) -> None:
        said = _pipe(self._process.stdout).readline().strip()
        if said != word:
            raise AssertionError(f"the relay said {said!r}, not {word!r}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        _pipe(self._process.stdin).close()
        _pipe(self._process.stdout).close()


def _some(percent: int) -> str:
    return f"numgen random mod 100 <= {percent - 1}"


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextlib.contextmanager
def _own_number() -> Iterator[int]:
    """A number that no other rig on this machine has; freed by the kernel when we die."""
    _LOCKS.mkdir(exist_ok=True)
    for number in range(_MOST_RIGS):
        file = (_LOCKS / str(number)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        with file:
            yield number
        return
    raise AssertionError(f"{_MOST_RIGS} rigs run on this machine already")


def _clear(number: int) -> None:
    """Remove what a rig of this number has left, with the processes in it."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    names = [line.split()[0] for line in listed.splitlines() if line]
    for name in names:
        if name.startswith((f"fl{number}s", f"fl{number}r", f"fl{number}n")):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
            for pid in pids.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    # The namespace's own end goes when the kernel gets to it, which can be later than the next rig.
    subprocess.run(["ip", "link", "delete", f"flroot{number}"], capture_output=True, check=False)


def _run_ip(lines: list[str]) -> None:
    for line in lines:
        _run(["ip", *line.split()])


def _run(words: list[str], text: str | None = None) -> None:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr.strip()}")
