"""A moving average of the weights, which scores better than the weights themselves while the learning rate is high.

    average = Average(model, decay=0.999)
    average.update(model)          # after each step
    logits = average.model(images_nchw)

After step t it is w_avg <- d w_avg + (1 - d) w with d = min(decay, (1 + t) / (10 + t)). The second term, TensorFlow's
`ExponentialMovingAverage(num_updates=…)`, lets the average look back over about a tenth of the steps made so far: a
short training is not held back by the weights that it began with.

The running statistics of batch norms are averaged in the same way. Copied, they would be those of the newest weights,
whose activations differ from those of the averaged ones; a second pass over the data to measure them would cost time.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

PREFIX = "average/"
_STEPS = "average_steps"


class Average:
    """`model` is the averaged one, always in eval mode; it has the type and the device of the other."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights and buffers of `model` after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = self.model.state_dict(), model.state_dict()
        averaged = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in averaged], [theirs[n] for n in averaged], 1 - decay)
        for name in mine.keys() - set(averaged):  # the number of batches that a batch norm has seen
            mine[name].copy_(theirs[name])

    def saved(self) -> dict[str, Tensor]:
        """What `load` needs, for the training part of a checkpoint."""
        state = {PREFIX + name: tensor for name, tensor in self.model.state_dict().items()}
        return state | {_STEPS: torch.tensor(self.steps)}

    def load(self, training: dict[str, Tensor]) -> None:
        """Take up what `saved` gave."""
        state = {n.removeprefix(PREFIX): t for n, t in training.items() if n.startswith(PREFIX)}
        self.model.load_state_dict(state)
        self.steps = int(training[_STEPS])
