"""What a training starts from: the preset's own network, or the trunk of a checkpoint given as --pretrained-from.

    begin = start(config)   # mean, std, layout, bn_eps, trunk

The trunk brings its layout, its batch norms' epsilon and the normalisation that it was trained with: weights that
are fed other numbers than they know are hardly better than none.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from segserve.errors import UsageError
from training import checkpoint, pspnet
from training.config import TrainConfig
from training.layout import Layout

TRUNK = "backbone."


@dataclass(frozen=True)
class Start:
    """`mean` and `std`: RGB on 0..255. `trunk`: the trunk's tensors by the model's names; empty: none given."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Layout | None
    bn_eps: float | None
    trunk: dict[str, Tensor]

    def fill(self, model: pspnet.PSPNet, config: TrainConfig) -> None:
        """Put the trunk into `model`. Raises CheckpointError where it does not fit."""
        pspnet.set_bn_eps(model, self.bn_eps)
        if self.trunk:
            assert config.pretrained_from is not None
            own = {name: t for name, t in model.state_dict().items() if not name.startswith(TRUNK)}
            checkpoint.load_state(model, own | self.trunk, config.pretrained_from)


@functools.lru_cache(maxsize=1)
def start(config: TrainConfig) -> Start:
    """Read what the options name. Raises CheckpointError; UsageError for a trunk of another preset."""
    if config.pretrained_from is None:
        return Start(*pspnet.normalisation(config.preset), None, None, {})
    state, meta = checkpoint.load_checkpoint(config.pretrained_from)
    if meta.preset != config.preset:
        raise UsageError(f"{config.pretrained_from} holds a {meta.preset}: train with --preset {meta.preset}")
    trunk = {name: tensor for name, tensor in state.items() if name.startswith(TRUNK)}
    return Start(meta.mean, meta.std, meta.layout, meta.bn_eps, trunk)
