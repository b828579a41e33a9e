"""The names and habits of other repositories' PSPNets and ResNets: what `training.import_checkpoint` needs to know.

    source, tensors = recognise(read_tensors_of_a_file)

Names are theirs, taken from their published code: hszhao/semseg (model/pspnet.py), open-mmlab/mmsegmentation
(ResNetV1c, PSPHead, FCNHead), CSAILVision/semantic-segmentation-pytorch (ResnetDilated, PPMDeepsup), torchvision and
timm (ResNet). A habit is what the tensors do not show: dilations, align_corners, normalisation. Only MMSegmentation
writes them into the file (training.foreign_config).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from segserve.errors import CheckpointError
from training.layout import Second
from training.pspnet import PYRAMID_BINS

Name = Literal["semseg", "mmseg", "csail", "torchvision"]
# DataParallel and AveragedModel, torch.compile, Lightning modules' usual attributes, CSAIL's module
CSAIL_PARTS = ("encoder.", "decoder.")
WRAPPERS = (("module.",), ("_orig_mod.",), ("model.",), ("net.",), CSAIL_PARTS)
INSIDE = re.compile(r"(?<![^.])_orig_mod\.")  # torch.compile of a part of the network
TRUNK = re.compile(r"(conv|bn)[123]\.|layer[1-4]\.")  # names of CSAIL's encoder
# How many weights an averaged model has averaged (torch's, mmengine's), class weights of semseg's and CSAIL's loss, and
# what CSAIL's synchronised batch norms sum up to make running_mean and running_var of
NO_WEIGHT = re.compile(
    r"((module|_orig_mod|model|net)\.)*(n_averaged|steps|(criterion|crit)\.weight)"
    r"|.*\.(_tmp_running_mean|_tmp_running_var|_running_iter)"
)
SHOWN = 4
# The last convolution of torchvision's fcn and deeplab, and the trunk beside it; a classifier's weight has two sides
SEGMENTING = ("classifier.4.weight", "backbone.layer1.0.conv1.weight")
DILATED = (
    "This is torchvision's fcn or deeplab, whose trunk was trained dilated, with half in the first blocks: import it "
    "with --from torchvision --contracted True. "
)
EXPECTED = (
    "expected a PSPNet of semseg, mmseg or csail (of csail give the encoder's and the decoder's file), or a ResNet of "
    "torchvision or timm"
)

SINGLE = (7, 7)  # kernel of a stem that is one convolution
# convolution and batch norm in turn, as each stem's author named them
STEMS = {
    "layer0.0": ("layer0.0", "layer0.1", "layer0.3", "layer0.4", "layer0.6", "layer0.7"),
    "stem.0": ("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"),
    "conv1.0": ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"),
    "conv3": ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
    "conv1": ("conv1", "bn1"),
}


@dataclass(frozen=True)
class Source:
    """One repository. `level` are the names of a pyramid level's convolution and batch norm, with {} for its number.

    `head` and `aux`: convolution, batch norm, classifier. `trunk`: prefix of the trunk's names.
    """

    name: Name
    level: tuple[str, str] | None
    head: tuple[str, str, str] | None
    aux: tuple[str, str, str] | None
    trunk: str
    align_corners: bool
    contracted: bool
    second: Second
    left_out: str = r"$^"
    """Tensors that no segmentation needs: how their names begin."""


SOURCES = (
    Source(
        "semseg", ("ppm.features.{}.1", "ppm.features.{}.2"), ("cls.0", "cls.1", "cls.4"), ("aux.0", "aux.1", "aux.4"),
        trunk="", align_corners=True, contracted=False, second="block",
    ),
    Source(
        "mmseg", ("decode_head.psp_modules.{}.1.conv", "decode_head.psp_modules.{}.1.bn"),
        ("decode_head.bottleneck.conv", "decode_head.bottleneck.bn", "decode_head.conv_seg"),
        ("auxiliary_head.convs.0.conv", "auxiliary_head.convs.0.bn", "auxiliary_head.conv_seg"),
        trunk="backbone.", align_corners=False, contracted=True, second="none",
        left_out=r"auxiliary_head\.\d+\.",  # a list of them: which one is like ours, nothing says
    ),
    Source(
        "csail", ("ppm.{}.1", "ppm.{}.2"), ("conv_last.0", "conv_last.1", "conv_last.4"),
        ("cbr_deepsup.0", "cbr_deepsup.1", "conv_last_deepsup"),
        trunk="", align_corners=False, contracted=True, second="stage",
    ),
    Source(
        "torchvision", None, None, None, trunk="", align_corners=True, contracted=False, second="block",
        left_out=r"fc\.(weight|bias)$",
    ),
)  # fmt: skip


def aside(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights, and the names of what lies beside them: counters, a loss's, and mmcv's moving averages.

    Those are called after what they average, as in ema_backbone_conv1_weight.
    """
    averages = {f"ema_{name.replace('.', '_')}" for name in tensors}
    left_out = {name for name in tensors if NO_WEIGHT.fullmatch(name)} | (averages & tensors.keys())
    kept = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    return kept, tuple(sorted(left_out))


def unwrap(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefixes that wrappers put before every name, in whichever order and however often.

    What only some names have is a part of the network, and stays; but torch.compile's is none, wherever it is.
    """
    plain = {INSIDE.sub("", name): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):  # a network and its compiled copy: nothing may be lost
        plain = dict(tensors)
    if not plain or not any(all(name.startswith(wrapper) for name in plain) for wrapper in WRAPPERS):
        return plain
    inner = {name.split(".", 1)[1]: tensor for name, tensor in plain.items()}
    # an encoder and a decoder that have a name in common are two networks, and nothing may be lost
    return unwrap(inner) if len(inner) == len(plain) else plain


def recognise(tensors: Mapping[str, Tensor], name: str) -> Source:
    """The source of these names; `name` is "auto" or says it. Raises CheckpointError for names of no source here."""
    asked = [source for source in SOURCES if name in ("auto", source.name)]
    found = next((source for source in asked if _has_names_of(source, tensors)), None)
    if name in ("auto", "csail") and (found is None or found.head is None) and _is_lone_encoder(tensors):
        raise CheckpointError(
            "the file has a trunk with the stem conv1, conv2, conv3, and neither heads nor fc.*: CSAIL's encoder "
            "alone. Expected its decoder.pth beside it (encoder.pth decoder.pth --from csail); to start a training "
            "from the trunk say --from torchvision --contracted True, or without --contracted if it is not CSAIL's"
        )
    if found is not None:
        return found
    what = "none of the known networks" if name == "auto" else f"not {name}'s"
    raise CheckpointError(
        f"the names of the tensors are {what}: {', '.join(sorted(tensors)[:SHOWN])}… ({len(tensors)} in all); "
        + (_part(tensors, asked) or EXPECTED)
    )


def _part(tensors: Mapping[str, Tensor], asked: list[Source]) -> str:
    """Which part of the names is known, and how to keep that alone; empty if none is. Nothing is guessed."""
    firsts = {(f"{name.partition('.')[0]}.",) for name in tensors}
    found: dict[tuple[str, ...], Name] = {}
    for prefixes in (CSAIL_PARTS, *sorted(firsts, key=lambda first: (first not in WRAPPERS, first))):
        inner = unwrap(
            {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(prefixes)}
        )
        source = next((source for source in asked if _has_names_of(source, inner)), None)
        whole = source is not None and (prefixes != CSAIL_PARTS or source.name == "csail")
        if source is not None and whole and not any(prefixes[0] in before for before in found):
            found[prefixes] = source.name
    if not found:
        return ""
    beside = [name for name in sorted(tensors) if not name.startswith(tuple(sum(found, ())))]
    where = "; ".join(
        f"{source}'s names are under {' and '.join(map(repr, prefixes))}"
        for prefixes, source in found.items()
    )
    inner = unwrap(tensors)
    dilated = all(name in inner and inner[name].dim() == 4 for name in SEGMENTING)
    return (
        f"{where}; beside them: {', '.join(beside[:SHOWN]) or 'nothing'}{'…' * (len(beside) > SHOWN)}. "
        f"{DILATED * dilated}Save "
        f"{'one of these' if len(found) > 1 else 'those'} alone and import that: {_keeping(next(iter(found)))}"
    )


def _keeping(prefixes: tuple[str, ...]) -> str:
    """A program that keeps what is under the prefix, without it; of CSAIL's two with them."""
    where = " or ".join(f"'.{prefix}' in '.' + n" for prefix in prefixes)
    name = f"('.' + n).split('.{prefixes[0]}', 1)[1]" if len(prefixes) == 1 else "n"
    return f"torch.save({{{name}: t for n, t in state_dict.items() if {where}}}, 'alone.pth')"


def _has_names_of(source: Source, tensors: Mapping[str, Tensor]) -> bool:
    head = source.head is None or f"{source.head[0]}.weight" in tensors
    return head and f"{source.trunk}layer1.0.conv1.weight" in tensors


def _is_lone_encoder(tensors: Mapping[str, Tensor]) -> bool:
    """Whether it can be the trunk of CSAIL's PSPNet: a classifier has fc, and others' deep stems are Sequentials."""
    stem = {"conv3.weight", "layer1.0.conv1.weight"} <= tensors.keys()
    return stem and all(TRUNK.match(name) for name in tensors)


def stem(tensors: Mapping[str, Tensor], source: Source) -> tuple[str, ...]:
    """Names of the stem's convolutions and batch norms, in turn. Raises CheckpointError."""
    for first, names in STEMS.items():
        found = tensors.get(f"{source.trunk}{first}.weight")
        if found is not None:
            # the stem of torchvision's ResNets, a single convolution, whoever's head it has
            single = tuple(found.shape[2:]) == SINGLE
            return tuple(source.trunk + name for name in (names[:2] if single else names))
    raise CheckpointError(f"no stem that is known: expected one of {', '.join(STEMS)} under '{source.trunk}'")


def their_name(ours: str, source: Source, stem_names: tuple[str, ...]) -> str:
    """What the source calls a tensor of ours, as in backbone.layer1.0.conv2.1.bias -> layer1.0.bn2.bias."""
    module, leaf = ours.rsplit(".", 1)
    if found := re.fullmatch(r"backbone\.stem\.(\d+)\.([01])", module):
        return f"{stem_names[int(found[1]) + int(found[2])]}.{leaf}"  # ours: 0, 2, 4 with a ReLU after each
    if found := re.fullmatch(r"backbone\.(layer\d\.\d+)\.conv(\d)\.([01])", module):
        return f"{source.trunk}{found[1]}.{'bn' if found[3] == '1' else 'conv'}{found[2]}.{leaf}"
    if found := re.fullmatch(r"backbone\.(layer\d\.\d+)\.shortcut\.([01])", module):
        return f"{source.trunk}{found[1]}.downsample.{found[2]}.{leaf}"
    if source.level and (found := re.fullmatch(r"pyramid\.levels\.(\d)\.0\.([01])", module)):
        assert int(found[1]) < len(PYRAMID_BINS)
        return f"{source.level[int(found[2])].format(found[1])}.{leaf}"
    for prefix, names in (("head", source.head), ("aux", source.aux)):
        parts = {f"{prefix}.0.0": 0, f"{prefix}.0.1": 1, f"{prefix}.3": 2}
        if names and module in parts:
            return f"{names[parts[module]]}.{leaf}"
    raise AssertionError(f"{ours}: no rule for it")
