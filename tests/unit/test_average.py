"""The moving average of the weights against its own equation."""

from __future__ import annotations

import torch
from torch import nn

from training.average import Average


def test_it_is_the_recursion_of_its_docstring_and_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    linear, norm = nn.Linear(3, 2), nn.BatchNorm1d(2)
    model, weights = nn.Sequential(linear, norm), linear.weight
    average = Average(model, decay=0.7)
    expected, mean = weights.detach().clone(), torch.zeros(2)
    for step in range(1, 9):
        model(torch.randn(5, 3))  # moves the batch norm's statistics
        with torch.no_grad():
            weights += torch.randn(2, 3)
        average.update(model)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights.detach()
        assert norm.running_mean is not None
        mean = decay * mean + (1 - decay) * norm.running_mean
        if step == 4:
            again = Average(model, decay=0.7)
            again.load(average.saved())
            average = again
    state = average.model.state_dict()
    torch.testing.assert_close(state["0.weight"], expected)
    torch.testing.assert_close(state["1.running_mean"], mean)
    assert state["1.num_batches_tracked"] == 8
    assert not average.model.training
