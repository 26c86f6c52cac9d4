# SPDX-License-Identifier: Apache-2.0
"""The whole loop in real processes: a workflow and two sites train a small torch net, frame by frame."""

import contextlib
import sys

import pytest
import torch
from parents import Parent, job

from flprov._base import canonical_json
from flprov.jobs import Workflow
from flprov.sdk import to_state_dict
from flprov.wire import pb, read_metadata, read_tensors, tensor_infos, verify_numbers, verify_update

NET = """
import torch
def Net():
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
"""
TRAIN = """
import argparse
import torch
import flprov.client as fl
from net import Net

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
args = parser.parse_args()

fl.init()
torch.manual_seed({"a": 1, "b": 2}[fl.site_name()])
x = torch.randn(32, 2)
y = x.sum(dim=1, keepdim=True)
net = Net()
while fl.is_running():
    model = fl.receive()
    net.load_state_dict(model.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr)
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        fl.log("loss", loss.item())
    fl.send(fl.Model(params=net.state_dict(), samples=len(x), metrics={"loss": loss}))
"""
SPEC = job({"train": "train.py"}, model="net:Net", args={"lr": 0.1}, workflow=Workflow(rounds=4))
FILES = {"net.py": NET, "train.py": TRAIN}


class Loop:
    """What server and agents do between the processes, as far as the processes can tell."""

    def __init__(self, folder, stack):
        self.workflow = stack.enter_context(
            Parent(folder / "server", FILES, SPEC, main="flprov.workers.workflow_main")
        )
        self.sites = {name: stack.enter_context(Parent(folder / name, FILES, SPEC)) for name in ("a", "b")}
        for name, site in self.sites.items():
            site.start_site(site=name)
        self.metrics = []
        self.states = []
        self.progress = 0

    def run(self, *, state=None):
        """Relay until the workflow has finished."""
        start = pb.StartWorkflow(job_id="j1", spec=canonical_json(SPEC), sites=list(self.sites))
        if state is not None:
            data, start.round = state
            start.state.CopyFrom(pb.Payload(inline=data, size=len(data)))
        self.workflow.send(start_workflow=start)
        self.workflow.expect("ready")
        while True:
            message = self.workflow.receive()
            assert message is not None, self.workflow.output()
            body = message.WhichOneof("body")
            if body == "broadcast":
                self.relay(message.broadcast)
            elif body == "close":
                self.metrics.append(dict(message.close.metrics))
                self.states.append((message.close.state.inline, message.close.round + 1))
                self.workflow.send(saved=pb.RoundSaved(round=message.close.round))
            else:
                assert body == "finished", message
                return message.finished.results["model.safetensors"].inline

    def relay(self, broadcast):
        for site in broadcast.sites:
            order = pb.TaskOrder(
                job_id="j1",
                task_id=broadcast.task_id,
                name=broadcast.name,
                round=broadcast.round,
                rounds=broadcast.rounds,
                expects=broadcast.expects,
                model=broadcast.model,
                scalars=broadcast.scalars,
            )
            self.sites[site].send(task=order)
        infos = tensor_infos(broadcast.model.inline)
        for number, site in enumerate(broadcast.sites):
            update = self.answer_of(self.sites[site])
            verify_update(infos, update.tensors.inline, update.kind, broadcast.expects)
            verify_numbers(update.samples, None, update.metrics)
            last = number + 1 == len(broadcast.sites)
            answer = pb.SiteAnswer(task_id=broadcast.task_id, site=site, update=update, last=last)
            self.workflow.send(answer=answer)

    def answer_of(self, site):
        while (message := site.receive()).WhichOneof("body") == "progress":
            self.progress += 1
        assert message.answer.WhichOneof("outcome") == "update", message
        return message.answer.update


@pytest.fixture
def loop(tmp_path):
    with contextlib.ExitStack() as stack:
        yield lambda name: Loop(tmp_path / name, stack)


def test_a_net_is_trained_and_a_workflow_that_starts_in_the_middle_goes_on_to_the_same_bits(loop):
    whole = loop("whole")
    model = whole.run()
    assert whole.metrics[-1]["loss"] < whole.metrics[0]["loss"]
    assert whole.progress == 2 * 4 * 5
    assert read_metadata(model) == {"format": "pt"}
    namespace = {}
    exec(NET, namespace)
    namespace["Net"]().load_state_dict(to_state_dict(read_tensors(model)))
    assert torch.equal(torch.tensor(read_tensors(model)["1.num_batches_tracked"]), torch.tensor(20))
    assert [site.quit() for site in whole.sites.values()] == [0, 0]
    assert whole.workflow.wait() == 0

    resumed = loop("resumed")  # new sites too: they hold nothing that a round does not bring
    assert resumed.run(state=whole.states[1]) == model
    assert resumed.metrics == whole.metrics[2:]


def test_a_process_without_a_parent_says_how_it_is_meant(tmp_path):
    command = [sys.executable, "-c", "import os; del os.environ['FLPROV_CHANNEL_FD']\n"]
    command[-1] += "from flprov.workers.site_main import main; main()"
    with Parent(tmp_path, {}, SPEC, command=command) as parent:
        assert parent.wait() == 1
        assert "started without a channel" in parent.output()
