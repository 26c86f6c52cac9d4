# SPDX-License-Identifier: Apache-2.0
"""A site's script: train on the site's own pictures, measure on its own part of the test pictures."""

import argparse

import torch
from learning import measure, prepare_torch, train
from model import Net
from pictures import Batches, load_pictures

import flprov.client as fl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--lr", type=float, default=0.01)
args = parser.parse_args()

fl.init()
prepare_torch()
training, test = (Batches(load_pictures(fl.dataset("cifar10"), part)) for part in ("train", "test"))
net = Net().to(memory_format=torch.channels_last)
print(f"{fl.site_name()}: {len(training)} pictures to train on, {len(test)} to measure on")

while fl.is_running():
    received = fl.receive()
    net.load_state_dict(received.params)
    if fl.is_evaluate():  # weighted by their samples, the sites' means are that over all test pictures
        fl.send(fl.Model(metrics=measure(net, test), samples=len(test)))
        continue
    torch.manual_seed(received.seed)  # of this site, round and task: the same in every run
    loss = train(
        net,
        training,
        epochs=args.epochs,
        lr=args.lr,
        correct=lambda: fl.correct_gradients(net, lr=args.lr),  # FedProx; nothing to do for FedAvg
        on_epoch=lambda loss: fl.log("train_loss", loss),
    )
    print(f"round {received.round + 1} of {received.rounds}: loss {loss:.4f}")
    fl.send(fl.Model(params=net.state_dict(), metrics={"train_loss": loss}, samples=len(training)))
