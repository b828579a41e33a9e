"""The optimisers, and how their state goes into a checkpoint and out of it, tensor by tensor.

optimizer = build(model, config)
saved = state(optimizer, model)            # {"momentum/head.0.0.weight": …}
load(optimizer, model, saved)
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.config import TrainConfig
from training.pspnet import PSPNet

MOMENTUM, NEW_LAYERS_RATE = 0.9, 10.0  # of the paper
# What torch calls it -> what checkpoints call it.
_NAMES = {
    "sgd": {"momentum_buffer": "momentum"},
    "adamw": {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "adamw_step"},
}


def build(model: PSPNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Two groups, the trunk and the new layers, each with its `rate`, the factor of the learning rate.

    SGD has the weight decay as an L2 penalty; AdamW decouples it (Loshchilov and Hutter, arXiv:1711.05101).
    """
    groups = [
        {"params": list(model.pretrained_parameters()), "rate": 1.0},
        {"params": list(model.new_parameters()), "rate": NEW_LAYERS_RATE},
    ]
    rate, decay = config.base_lr, config.weight_decay
    if config.weights.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, weight_decay=decay)


def state(optimizer: torch.optim.Optimizer, model: PSPNet) -> dict[str, Tensor]:
    """All that the optimiser remembers; nothing if every step so far overflowed float16."""
    return {
        f"{short}/{name}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        for key, short in _names(optimizer).items()
        if optimizer.state[parameter]
    }


def load(optimizer: torch.optim.Optimizer, model: PSPNet, saved: dict[str, Tensor]) -> None:
    """Take up what `state` gave, in the memory layout of the parameters."""
    for name, parameter in model.named_parameters():
        for key, short in _names(optimizer).items():
            if (tensor := saved.get(f"{short}/{name}")) is not None:
                scalar = tensor.ndim == 0  # the number of steps: stays on the CPU
                mine = tensor if scalar else torch.empty_like(parameter, requires_grad=False).copy_(tensor)
                optimizer.state[parameter][key] = mine


def _names(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    return _NAMES["adamw" if isinstance(optimizer, torch.optim.AdamW) else "sgd"]
