"""What MMSegmentation's configuration says of a network, read by its words and never run.

    said = habits(text)

mmseg writes the whole configuration into its files, as Python text. What that leaves out is as mmseg has it: a backbone
that names no strides has an output stride of 32, and a `data_preprocessor` without a mean subtracts none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from segserve.errors import CheckpointError
from training.layout import StrideIn
from training.pspnet import PYRAMID_BINS

Order = Literal["rgb", "bgr"]
Values = tuple[float, ...]
# What is built here, as the configuration calls it
BUILT: dict[str, Values] = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "pool_scales": PYRAMID_BINS}
# What a backbone has that does not say
LEFT_OUT: dict[str, Values] = {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}
EPSILON = 1e-5  # of a norm_cfg that does not say
STYLES: dict[str | None, StrideIn] = {"pytorch": "3x3", "caffe": "1x1"}
TRUTHS: dict[str | None, bool] = {"True": True, "False": False}
# Of whether the channels were turned: cv2 reads BGR
ORDERS: dict[bool | None, Order] = {True: "rgb", False: "bgr"}
NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
DICT = re.compile(r"(?:\b(\w+)['\"]?\s*[=:]\s*)?(?:\bdict\(|\{)")
TOKEN = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[()\[\]{}]")
NORMALIZE = re.compile(r"\btype['\"]?\s*[=:]\s*['\"](?:\w+\.)*Normalize['\"]")


@dataclass(frozen=True)
class Habits:
    """What a file's own configuration says. `mean` and `std` in the order and scale that the network was fed.

    None: it does not say. `threshold`: of a binary head's sigmoid, above which a pixel is class 1.
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


def habits(text: str) -> Habits:
    """Raises CheckpointError for a network that is not built here."""
    model = _first(text, "model") or text  # elsewhere `backbone` may stand for learning rates
    backbone = _first(model, "backbone")
    _refuse_others(text, backbone)
    # not the one for training alone, which may come before it
    head = text.partition("decode_head")[2] or text
    threshold, grid = _word(head, "threshold"), _numbers(text, "multi_grid")
    order, mean, std = _fed(text)
    return Habits(
        TRUTHS.get(_word(head, "align_corners")),
        _truth(text if backbone is None else backbone, "contract_dilation", None if backbone is None else False),
        STYLES.get(_word(text if backbone is None else backbone, "style")),
        None if grid is None else tuple(map(int, grid)),
        order,
        mean,
        std,
        float(threshold) if threshold and re.fullmatch(r"0?\.\d+", threshold) else None,
        _epsilon(text, model),
    )  # fmt: skip


def _refuse_others(text: str, backbone: str | None) -> None:
    for name, built in BUILT.items():
        of_backbone = backbone is not None and name in LEFT_OUT
        said = _numbers(backbone if of_backbone and backbone is not None else text, name)
        left_out = said is None and of_backbone
        said = LEFT_OUT[name] if left_out else said
        if said is not None and said != built:
            why = " (as mmseg has it where the backbone does not say)" if left_out else ""
            raise CheckpointError(
                f"the file's own configuration says {name} {_plain(said)}, expected {_plain(built)}{why}: its tensors "
                "would fit, but it is another function, which is not supported. Take a PSPNet of output stride 8 "
                "(mmseg's names for them have d8)"
            )


def _fed(text: str) -> tuple[Order | None, Values | None, Values | None]:
    """Channel order, mean and std. 1.x has them in `data_preprocessor`, 0.x in the pipeline's step `Normalize`.

    Both have defaults, other ones: the first leaves BGR as it is, the second makes RGB of it.
    """
    step, inner = _normalize(text), _first(text, "data_preprocessor")
    if inner is None:
        place = step or _first(text, "img_norm_cfg")
        if place is None:  # a scrap of a configuration: nothing is known of what it leaves out
            return ORDERS.get(_truth(text, "(?:bgr_)?to_rgb", None)), *_normalisation(text)
        return ORDERS.get(_truth(place, "to_rgb", True)), *_normalisation(place)
    flags = [_truth(inner, name, False) for name in ("bgr_to_rgb", "rgb_to_bgr")]  # either turns them
    turned = None if None in flags else any(flags)
    if _is_said(inner, "mean"):
        return ORDERS.get(turned), *_normalisation(inner)
    if step is None:
        return ORDERS.get(turned), (0.0,) * 3, (1.0,) * 3
    before, (mean, std) = _truth(step, "to_rgb", True), _normalisation(step)
    if turned:  # once more, after the mean was subtracted
        mean, std = mean and mean[::-1], std and std[::-1]
    return ORDERS.get(None if None in (before, turned) else before != turned), mean, std


def _normalize(text: str) -> str | None:
    """What is inside the innermost dict of the type Normalize."""
    return min((inside for _, inside in _dicts(text) if NORMALIZE.search(inside)), key=len, default=None)


def _normalisation(text: str) -> tuple[Values, Values] | tuple[None, None]:
    """Mean and std, of one number for all channels or one for each; both None where they make no pair."""
    mean, std = _numbers(text, "mean"), _numbers(text, "std")
    if mean is None or std is None or len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        return None, None
    return (mean * 3, std * 3) if len(mean) == 1 else (mean, std)


def _epsilon(text: str, model: str) -> float | None:
    """Of the batch norms; optimizers have an eps too. Raises CheckpointError for two of them."""
    said = [_number(inside, "eps") for inside in _all(model, "norm_cfg") or _all(text, "norm_cfg")]
    if not any(said):
        return None
    values = sorted({EPSILON if value is None else value for value in said})
    if len(values) > 1:
        raise CheckpointError(
            f"the file's own configuration gives the batch norms the epsilons {_plain(tuple(values))}, expected one "
            "for all of them: such a network is not supported"
        )
    return values[0]


def _dicts(text: str) -> Iterator[tuple[str | None, str]]:
    """Name, None where it has none, and inside of every dict, those within others too."""
    for found in DICT.finditer(text):
        yield found[1], _inside(text, found.end())


def _inside(text: str, start: int) -> str:
    """Up to the bracket that closes the one before `start`."""
    depth = 1
    for token in TOKEN.finditer(text, start):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
        if depth == 0:
            return text[start : token.start()]
    return text[start:]


def _all(text: str, name: str) -> list[str]:
    return [inside for called, inside in _dicts(text) if called == name]


def _first(text: str, name: str) -> str | None:
    return next(iter(_all(text, name)), None)


def _word(text: str, name: str) -> str | None:
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*['\"]?([\w.]+)", text)
    return found[1] if found else None


def _truth(text: str, name: str, left_out: bool | None) -> bool | None:
    """None for what is neither True nor False."""
    word = _word(text, name)
    return left_out if word is None else TRUTHS.get(word)


def _is_said(text: str, name: str) -> bool:
    return re.search(rf"\b{name}['\"]?\s*[=:]\s*(?!None\b)\S", text) is not None


def _number(text: str, name: str) -> float | None:
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*({NUMBER})", text)
    return float(found[1]) if found else None


def _numbers(text: str, name: str) -> Values | None:
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*[(\[]([-+\d.,e\s]*)[)\]]", text)
    numbers = re.findall(NUMBER, found[1]) if found else None
    return tuple(float(number) for number in numbers) if numbers else None


def _plain(numbers: Values) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
