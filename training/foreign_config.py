"""What MMSegmentation's configuration says of a network, read by its words and never run.

    said = habits(text)

mmseg writes the whole configuration into its files, as Python text. What that leaves out is as mmseg has it: a backbone
that names no strides has an output stride of 32, and a `data_preprocessor` without a mean subtracts none.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from segserve.errors import CheckpointError
from training.foreign_words import (
    TRUTHS,
    Values,
    every,
    first,
    is_said,
    number,
    numbers,
    of_type,
    own,
    plain,
    shallow,
    truth,
    word,
)
from training.layout import StrideIn
from training.pspnet import PYRAMID_BINS

Order = Literal["rgb", "bgr"]
Sides = tuple[int, int]  # height and width
Fed = tuple[Order | None, Values | None, Values | None]
# What is built here, as the configuration calls it
BUILT: dict[str, Values] = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "pool_scales": PYRAMID_BINS}
# What a backbone has that does not say
LEFT_OUT: dict[str, Values] = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
EPSILON = 1e-5  # of a norm_cfg that does not say
STYLES: dict[str | None, StrideIn] = {"pytorch": "3x3", "caffe": "1x1"}
# Of whether the channels were turned: cv2 reads BGR
ORDERS: dict[bool | None, Order] = {True: "rgb", False: "bgr"}
FEEDING = "data_preprocessor"


@dataclass(frozen=True)
class Habits:
    """What a file's own configuration says. `mean` and `std` in the order and scale that the network was fed.

    None: it does not say. `threshold`: of a binary head's sigmoid, above which a pixel is class 1. `crop`: height and
    width that it was trained at. `test`: slide or whole. `unclear`: what it says so that nobody can tell which holds.
    """

    align_corners: bool | None = None
    contracted: bool | None = None
    stride_in: StrideIn | None = None
    multi_grid: tuple[int, ...] | None = None
    channel_order: Order | None = None
    mean: Values | None = None
    std: Values | None = None
    threshold: float | None = None
    bn_eps: float | None = None
    crop: Sides | None = None
    test: str | None = None
    unclear: tuple[str, ...] = ()

    def words(self) -> str:
        """What it says, for people; empty where that is nothing."""
        return ", ".join(f"{k} {v}" for k, v in vars(self).items() if v is not None and k != "unclear")


def habits(text: str) -> Habits:
    """Raises CheckpointError for a network that is not built here."""
    text = text.strip().removeprefix("{")  # JSON's, whose names are at the top as Python's are
    model = first(text, "model") or text  # elsewhere `backbone` may stand for learning rates
    backbone = first(model, "backbone")
    _refuse_others(text, backbone)
    # not the one for training alone, which may come before it
    head = text.partition("decode_head")[2] or text
    threshold, grid = word(head, "threshold"), numbers(text, "multi_grid")
    fed, crops = _fed(text, model), _crops(text, model)
    order, mean, std = fed[0] if len(fed) == 1 else (None, None, None)
    unclear = {FEEDING: len(fed) != 1, _several(crops): len(crops) > 1}
    return Habits(
        TRUTHS.get(word(head, "align_corners")),
        truth(text if backbone is None else backbone, "contract_dilation", None if backbone is None else False),
        STYLES.get(word(text if backbone is None else backbone, "style")),
        None if grid is None else tuple(map(int, grid)),
        order,
        mean,
        std,
        float(threshold) if threshold and re.fullmatch(r"0?\.\d+", threshold) else None,
        _epsilon(text, model),
        crops[0] if len(crops) == 1 else None,
        word(first(model, "test_cfg") or first(text, "test_cfg") or "", "mode"),
        tuple(what for what, is_so in unclear.items() if is_so),
    )  # fmt: skip


def _refuse_others(text: str, backbone: str | None) -> None:
    for name, built in BUILT.items():
        of_backbone = backbone is not None and name in LEFT_OUT
        said = numbers(backbone if of_backbone and backbone is not None else text, name)
        left_out = said is None and of_backbone
        said = LEFT_OUT[name] if left_out else said
        if said is not None and said != built:
            why = " (as mmseg has it where the backbone does not say)" if left_out else ""
            raise CheckpointError(
                f"the file's own configuration says {name} {plain(said)}, expected {plain(built)}{why}: its tensors "
                "would fit, but it is another function, which is not supported. Take a PSPNet of output stride 8 "
                "(mmseg's names for them have d8)"
            )


def _fed(text: str, model: str) -> list[Fed]:
    """Channel order, mean and std. 1.x has them in `data_preprocessor`, 0.x in the pipeline's step `Normalize`.

    Several, or none at all, where nothing says which of the first holds.
    """
    step, feeding = min(of_type(text, "Normalize"), key=len, default=None), _preprocessors(text, model)
    if feeding is not None:
        return sorted({_fed_by(inner, step) for inner in feeding}, key=str)
    place = step or first(text, "img_norm_cfg")
    if place is None:  # a scrap of a configuration: nothing is known of what it leaves out
        return [(ORDERS.get(truth(text, "(?:bgr_)?to_rgb", None)), *_normalisation(text))]
    return [(ORDERS.get(truth(place, "to_rgb", True)), *_normalisation(place))]


def _preprocessors(text: str, model: str) -> list[str] | None:
    """The model's own; the one at the top if that has none, as mmengine's Runner has it; else whichever there are.

    None: there are none, as in 0.x.
    """
    called = word(shallow(model), FEEDING)
    if (inside := own(model, FEEDING)) or called is None:
        return [_spread(one, text) for one in inside or own(text, FEEDING) or every(text, FEEDING)] or None
    return [""] if called in ("None", "null") else own(text, called)


def _spread(inside: str, text: str) -> str:
    """With what a `**name` in it brings."""
    return ", ".join([inside, *(one for name in re.findall(r"\*\*(\w+)", inside) for one in own(text, name))])


def _fed_by(inner: str, step: str | None) -> Fed:
    """By a `data_preprocessor` behind the pipeline's step `Normalize`, if there is one.

    Both have defaults, other ones: the first leaves BGR as it is, the second makes RGB of it.
    """
    flags = [truth(inner, name, False) for name in ("bgr_to_rgb", "rgb_to_bgr")]  # either turns them
    turned = None if None in flags else any(flags)
    if is_said(inner, "mean"):
        return ORDERS.get(turned), *_normalisation(inner)
    if step is None:
        return ORDERS.get(turned), (0.0,) * 3, (1.0,) * 3
    before, (mean, std) = truth(step, "to_rgb", True), _normalisation(step)
    if turned:  # once more, after the mean was subtracted
        mean, std = mean and mean[::-1], std and std[::-1]
    return ORDERS.get(None if None in (before, turned) else before != turned), mean, std


def _crops(text: str, model: str) -> list[Sides]:
    """Height and width of the crops that it was trained with: several where nothing says which.

    The step that cuts them says it best; where it does not, what pads them, what is called after them, and at last the
    windows of a test.
    """
    cut = [_sides(step, "crop_size") for step in of_type(text, "RandomCrop")]
    padded = [_sides(inner, "size") for inner in _preprocessors(text, model) or every(text, FEEDING)]
    windows = every(text, "test_cfg")
    called = functools.reduce(lambda rest, inside: rest.replace(inside, ""), filter(None, windows), text)
    tested = [_sides(inside, "crop_size") for inside in windows]
    known = (set[Sides]().union(*sizes) for sizes in (cut, padded, [_sides(called, "crop_size")], tested))
    return sorted(next(filter(None, known), ()))


def _sides(text: str, name: str) -> set[Sides]:
    """A single number stands for both."""
    found = re.finditer(rf"\b{name}['\"]?\s*[=:]\s*(?:[(\[]\s*(\d+)\s*,\s*(\d+)\s*,?\s*[)\]]|(\d+))", text)
    return {(int(one[1] or one[3]), int(one[2] or one[3])) for one in found}


def _several(crops: list[Sides]) -> str:
    return f"crop_size ({' or '.join(f'{height} x {width}' for height, width in crops)})"


def _normalisation(text: str) -> tuple[Values, Values] | tuple[None, None]:
    """Mean and std, of one number for all channels or one for each; both None where they make no pair."""
    mean, std = numbers(text, "mean"), numbers(text, "std")
    if mean is None or std is None or len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        return None, None
    return (mean * 3, std * 3) if len(mean) == 1 else (mean, std)


def _epsilon(text: str, model: str) -> float | None:
    """Of the batch norms; optimizers have an eps too. Raises CheckpointError for two of them."""
    said = [number(inside, "eps") for inside in every(model, "norm_cfg") or every(text, "norm_cfg")]
    if not any(said):
        return None
    values = sorted({EPSILON if value is None else value for value in said})
    if len(values) > 1:
        raise CheckpointError(
            f"the file's own configuration gives the batch norms the epsilons {plain(tuple(values))}, expected one "
            "for all of them: such a network is not supported"
        )
    return values[0]
