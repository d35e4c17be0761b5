"""Parameter groups leave embeddings, tokens and vectors undecayed."""

import pytest
import torch
from torch import nn

from handmim.training.optim import build_optimizer, parameter_groups


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_groups():
    model = Toy()
    decayed, plain = parameter_groups(model, 0.05)
    assert [p.shape for p in decayed["params"]] == [model.linear.weight.shape]
    assert decayed["weight_decay"] == 0.05 and plain["weight_decay"] == 0.0
    assert sum(p.numel() for p in plain["params"]) == 4 + 4 + 4 + 12  # biases, norm, position embedding


def test_layers_have_rates_only_in_a_transformer():
    with pytest.raises(ValueError, match="Toy has no blocks: leave it at 1"):
        parameter_groups(Toy(), 0.05, 0.1, layer_decay=0.5)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_optimisers_step(name):
    model = Toy()
    optimizer = build_optimizer(model, name, learning_rate=0.01, weight_decay=0.05)
    before = model.linear.weight.detach().clone()
    (model.norm(model.linear(torch.randn(5, 4)) + model.pos_embed[0, 0]) ** 3).sum().backward()
    optimizer.step()
    assert not torch.equal(model.linear.weight, before)
    assert torch.isfinite(model.linear.weight).all()


def test_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match="nonesuch"):
        build_optimizer(Toy(), "nonesuch", learning_rate=0.1, weight_decay=0.0)
