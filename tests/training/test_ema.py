"""The average of weights follows the model, survives a restart and refuses strangers."""

import pytest
import torch
from torch import nn

from handmim.training.ema import EMA_FILE, WeightAverage


def test_average_moves_towards_the_weights():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.5)
    before = average.shadow["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    average.update(model)
    step = (average.shadow["weight"] - before).mean().item()
    assert step == pytest.approx(1 - 2 / 11, abs=1e-6)  # the first decay is (1 + 1) / (10 + 1), below the bound


def test_averages_of_batch_norm_are_followed_too():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.5)
    model.running_mean += 1
    average.update(model)
    torch.testing.assert_close(average.shadow["running_mean"], torch.full((2,), 1 - 2 / 11))
    assert "num_batches_tracked" not in average.shadow


def test_decay_is_bounded():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, decay=0.9)
    average.step = 10_000
    before = average.shadow["weight"].clone()
    with torch.no_grad():
        model.weight += 1
    average.update(model)
    assert (average.shadow["weight"] - before).item() == pytest.approx(0.1, abs=1e-6)


def test_saved_average_goes_on_exactly(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    first = WeightAverage(model, decay=0.99)
    for _ in range(3):
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        first.update(model)
    first.save(tmp_path)
    second = WeightAverage(model, decay=0.99)
    second.load(tmp_path)
    first.update(model)
    second.update(model)
    assert first.step == second.step == 4
    assert all(torch.equal(first.shadow[name], second.shadow[name]) for name in first.shadow)
    assert sorted(path.name for path in tmp_path.iterdir()) == [EMA_FILE]


def test_state_dict_keeps_the_models_dtypes():
    model = nn.BatchNorm1d(3).to(torch.bfloat16)
    state = WeightAverage(model, decay=0.9).state_dict(model)
    assert {name: value.dtype for name, value in state.items()} == {n: v.dtype for n, v in model.state_dict().items()}


def test_missing_or_foreign_average_is_refused(tmp_path):
    average = WeightAverage(nn.Linear(2, 2), decay=0.9)
    with pytest.raises(FileNotFoundError, match="ema_decay"):
        average.load(tmp_path)
    WeightAverage(nn.Linear(3, 2), decay=0.9).save(tmp_path)
    with pytest.raises(ValueError, match="another architecture"):
        average.load(tmp_path)


def test_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="1.5"):
        WeightAverage(nn.Linear(1, 1), decay=1.5)
