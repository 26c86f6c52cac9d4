# SPDX-License-Identifier: Apache-2.0
"""FLARE's parts for trainers of PyTorch, in numbers by hand."""

import copy

import pytest
import torch

from flprov.errors import Misuse
from flprov.flare.app_common.abstract.model import ModelLearnableKey, make_model_learnable
from flprov.flare.app_opt.pt.fedproxloss import PTFedProxLoss
from flprov.flare.app_opt.pt.model_persistence_format_manager import PTModelPersistenceFormatManager
from flprov.flare.app_opt.pt.scaffold import PTScaffoldHelper, get_lr_values


def line(weight):
    net = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(weight)
    return net


def test_the_term_of_fedprox_and_its_gradient():
    own, received = line(3.0), line(1.0)
    term = PTFedProxLoss(mu=0.5)(own, received)
    term.backward()
    assert (term.item(), own.weight.grad.item(), received.weight.grad) == (1.0, 1.0, None)
    with pytest.raises(Misuse, match="not be negative"):
        PTFedProxLoss(mu=-1)


def test_a_round_of_scaffold():
    net, helper = line(1.0), PTScaffoldHelper()
    helper.init(net)
    helper.load_global_controls({"weight": [[0.5]]})
    received = copy.deepcopy(net)
    c_global, c_local = helper.get_params()
    with pytest.raises(Misuse, match="before any model_update"):
        helper.terms_update(net, 0.1, c_global, c_local, received)
    for _ in range(2):  # two steps that the optimizer leaves where they are: only the correction moves
        helper.model_update(net, 0.1, c_global, c_local)
    assert net.weight.item() == pytest.approx(1 - 2 * 0.1 * 0.5)
    with pytest.raises(Misuse, match="before terms_update"):
        helper.get_delta_controls()
    helper.terms_update(net, 0.1, c_global, c_local, received)
    # c_i+ = c_i - c + (x - y) / (K lr) = 0 - 0.5 + 0.1 / 0.2
    assert helper.get_delta_controls()["weight"].tolist() == [[pytest.approx(0.0, abs=1e-6)]]
    with pytest.raises(Misuse, match="no parameter of the model"):
        helper.load_global_controls({"bias": [0.0]})


def test_what_examples_save_is_read_back():
    net = line(2.0)
    manager = PTModelPersistenceFormatManager(net.state_dict(), {"train": {"model": "Net"}})
    manager.update(make_model_learnable({"weight": [[5.0]]}, {"round": 1}))
    again = PTModelPersistenceFormatManager(manager.to_persistence_dict())
    assert again.train_conf == {"train": {"model": "Net"}}
    assert again.to_model_learnable()[ModelLearnableKey.WEIGHTS]["weight"].tolist() == [[5.0]]
    assert again.to_model_learnable(exclude_vars="weight").is_empty()
    with pytest.raises(Misuse, match="state_dict"):
        PTModelPersistenceFormatManager([1])


def test_the_learning_rates_of_an_optimizer():
    assert get_lr_values(torch.optim.SGD(line(1.0).parameters(), lr=0.3)) == [0.3]
