"""What a training starts from: the preset's own network, or a checkpoint given as --pretrained-from.

    begin = start(config)   # mean, std, layout, bn_eps, classes, weights

A checkpoint of the same classes, such as the version in service that new photos shall improve, gives all it has; of
others the trunk is taken, and the heads begin anew. The trunk brings its layout, its batch norms' epsilon and the
normalisation that it was trained with: weights that are fed other numbers than they know are hardly better than none.
The heads bring how maps are upsampled (align_corners), since pyramid and classifier were trained with it.

A training that goes on has its own weights, and takes the rest from its own checkpoint too: the file that it began
with may be gone, or another one by now.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from segserve.errors import UsageError
from training import checkpoint, pspnet
from training.checkpoint import LAST
from training.config import TrainConfig
from training.description import shown
from training.layout import Layout

TRUNK = "backbone."


@dataclass(frozen=True)
class Start:
    """`mean` and `std`: RGB on 0..255. `weights`: tensors by the model's names, for `classes`; empty: none given."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Layout | None
    bn_eps: float | None
    align_corners: bool
    classes: tuple[str, ...]
    weights: dict[str, Tensor]

    def brings_heads(self, classes: tuple[str, ...]) -> bool:
        """Whether a model for `classes` gets all of the checkpoint and not its trunk only."""
        return bool(self.weights) and classes == self.classes

    def corners(self, config: TrainConfig, classes: tuple[str, ...]) -> bool:
        """How the model for `classes` upsamples. Raises UsageError where options contradict heads that are taken."""
        given = config.align_corners
        if not self.brings_heads(classes):
            return given is not False
        if given is not None and given != self.align_corners:
            flags = {True: "--align-corners", False: "--no-align-corners"}
            raise UsageError(
                f"{flags[given]}, but {config.pretrained_from}, whose heads are taken as its classes are the same, was "
                f"trained with align_corners {self.align_corners}: expected {flags[self.align_corners]}, or neither"
            )
        return self.align_corners if given is None else given

    def fill(self, model: pspnet.PSPNet, config: TrainConfig, classes: tuple[str, ...]) -> str:
        """Put the weights into `model`, which tells `classes` apart. Raises CheckpointError where they don't fit.

        Returns: what was taken, in words; empty if nothing was there to take.
        """
        pspnet.set_bn_eps(model, self.bn_eps)
        if not self.weights:
            return ""
        assert config.pretrained_from is not None
        same = self.brings_heads(classes)
        given = {name: t for name, t in self.weights.items() if same or name.startswith(TRUNK)}
        own = {name: t for name, t in model.state_dict().items() if not name.startswith(TRUNK)}
        checkpoint.load_state(model, own | given, config.pretrained_from)
        what = "trunk and heads" if same else "trunk"
        return shown(f"{what} of {config.pretrained_from}")


@functools.lru_cache(maxsize=1)
def start(config: TrainConfig) -> Start:
    """Read what the options name. Raises CheckpointError; UsageError for a trunk of another preset."""
    if config.pretrained_from is None:
        return Start(*pspnet.normalisation(config.preset), None, None, True, (), {})
    path = config.out / LAST if config.resume else config.pretrained_from
    state, meta = checkpoint.load_checkpoint(path)
    if meta.preset != config.preset:
        raise UsageError(f"{path} holds a {meta.preset}: train with --preset {meta.preset}")
    weights = {} if config.resume else state
    return Start(meta.mean, meta.std, meta.layout, meta.bn_eps, meta.align_corners, meta.classes, weights)
