# SPDX-License-Identifier: Apache-2.0
"""A job that tries to read the site's key, another job's folder and the network, and cannot."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from harness import GATED, Network, write_app
from test_network_faults import in_round_1, wait_for

pytestmark = pytest.mark.network

# Tries everything in `args.tries`, prints what happened as one line of JSON.
NOSY = """
import json
import os
import socket
import urllib.request
from flprov.messages import Update


def attempt(work):
    try:
        return "GOT " + str(work())[:200]
    except BaseException as error:
        return type(error).__name__


def connect(port):
    with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
        return sock.getpeername()


def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"x", ("127.0.0.1", port))


def train(task, site, paths, port):
    found = {path: attempt(lambda path=path: open(path, "rb").read(100)) for path in paths}
    found |= {"list " + path: attempt(lambda path=path: os.listdir(os.path.dirname(path))) for path in paths}
    found["write app"] = attempt(lambda: open("../app/train.py", "ab").write(b"#"))
    found["tcp"] = attempt(lambda: connect(port))
    found["udp"] = attempt(lambda: udp(port))
    found["dns"] = attempt(lambda: urllib.request.urlopen("http://localhost:%d" % port, timeout=2).read())
    found["parent"] = attempt(lambda: os.kill(os.getppid(), 9))
    found["environ"] = attempt(lambda: open("/proc/%d/environ" % os.getppid(), "rb").read())
    found["own dataset"] = attempt(lambda: os.listdir(site.data("gate")))
    print("FOUND " + json.dumps(found), flush=True)
    return Update(params=task.params, samples=1)


def initial():
    import numpy as np
    return {"w": np.zeros(1, dtype=np.float32)}
"""

WORKFLOW = """
import json
import os
from train import attempt, connect


class Nosy:
    def __init__(self, paths="", port=0):
        self.paths, self.port = json.loads(paths), port

    def run(self, sites, state):
        found = {path: attempt(lambda path=path: open(path, "rb").read(100)) for path in self.paths}
        found["tcp"] = attempt(lambda: connect(self.port))
        print("FOUND " + json.dumps(found), flush=True)
        for state in sites.rounds(state):
            updates = sites.train(state.model)
            sites.commit(state.next(model=state.model))
"""


def findings(network: Network, job_id: str, party: str) -> dict[str, str]:
    text = b"".join(part.data for part in network.admin().logs(job_id, site=party)).decode()
    line = next(line for line in text.splitlines() if line.startswith("FOUND "))
    return json.loads(line.removeprefix("FOUND "))


def test_a_nosy_job_gets_nothing_at_the_site_nor_beside_the_server(network: Network, tmp_path):
    admin = network.admin()
    other = admin.submit(write_app(tmp_path / "other", train=GATED, job="sites: {min: 2}"))
    wait_for(admin, other.job_id, in_round_1)
    secret = network.folder / "secret.txt"
    secret.write_text("patient data that no job was given")
    paths = [
        str(network.kit("site-1") / "identity" / "key.pem"),
        str(network.kit("site-1") / "kit.yml"),
        str(network.kit("server") / "identity" / "key.pem"),
        str(network.local("site-1") / "state" / "store.db"),
        str(network.local("server") / "state" / "store.db"),
        str(network.local("site-1") / "policy.yml"),
        str(network.local("site-1") / "state" / "jobs" / other.job_id / "app" / "train.py"),
        str(network.local("server") / "state" / "jobs" / other.job_id / "workflow" / "app" / "train.py"),
        str(secret),
        "/etc/shadow",
    ]
    for path in paths[:-1]:
        open(path, "rb").close()  # they exist: a test that cannot fail proves nothing
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: _accept(listener), daemon=True).start()
        port = listener.getsockname()[1]
        job = f"""
args: {{paths: {json.dumps(paths)}, port: {port}}}
workflow: {{entry: "nosy:Nosy", rounds: 1, paths: {json.dumps(json.dumps(paths))}, port: {port}}}
model: train:initial
"""
        app = write_app(tmp_path / "nosy", train=NOSY)
        (app / "nosy.py").write_text(WORKFLOW)
        (app / "job.yml").write_text(f"name: nosy\ntasks: train:train\ndata: [gate]\n{job}")
        submitted = admin.submit(app)
        done = admin.wait(submitted.job_id, timeout=60)
    assert done.state == "completed", admin.why(submitted.job_id)
    at_site = findings(network, submitted.job_id, "site-1")
    assert at_site.pop("own dataset").startswith("GOT")
    assert at_site["tcp"] in ("PermissionError", "OSError")
    got = {what: result for what, result in at_site.items() if result.startswith("GOT")}
    assert got == {}
    beside = findings(network, submitted.job_id, "server")
    assert {what: result for what, result in beside.items() if result.startswith("GOT")} == {}
    network.open_gate("site-1")
    network.open_gate("site-2")
    assert admin.wait(other.job_id, timeout=60).state == "completed"


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_the_probe_itself_sees_what_is_open(tmp_path):
    """The same attempts outside of a job succeed, so the ones above were refused, not broken."""
    (tmp_path / "train.py").write_text(NOSY.replace("from flprov.messages import Update", ""))
    scope: dict = {}
    exec((tmp_path / "train.py").read_text(), scope)
    (tmp_path / "key.pem").write_text("secret")
    assert scope["attempt"]((tmp_path / "key.pem").read_text) == "GOT secret"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert scope["attempt"](lambda: scope["connect"](port)).startswith("GOT")
        assert scope["attempt"](lambda: scope["udp"](port)) == "GOT 1"
