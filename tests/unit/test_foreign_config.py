"""What mmseg's configuration leaves out is as mmseg has it, and what it says is read from the right place."""

from __future__ import annotations

import pytest

from segserve.errors import CheckpointError
from training.foreign_config import habits

BUILT = "strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)"


def model(backbone: str, more: str = "") -> str:
    head = "decode_head=dict(type='PSPHead', pool_scales=(1, 2, 3, 6))"
    return f"model = dict(\n    backbone=dict(type='ResNetV1c', {backbone}),\n    {head})\n{more}"


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("depth=50", "strides 1, 2, 2, 2, expected 1, 2, 1, 1"),
        ("depth=50, dilations=(1, 1, 2, 4)", "strides 1, 2, 2, 2, expected 1, 2, 1, 1"),
        ("depth=50, strides=(1, 2, 1, 1)", "dilations 1, 1, 1, 1, expected 1, 1, 2, 4"),
    ],
)
def test_a_backbone_that_does_not_say_has_mmsegs_stride_of_32(backbone: str, said: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"configuration says {said} \(as mmseg has it.*another function"
    ):
        habits(model(backbone))
    json = '{"model": {"backbone": {"type": "ResNetV1c", "depth": 50}}}'
    with pytest.raises(CheckpointError, match="configuration says strides 1, 2, 2, 2"):
        habits(json)


def test_a_backbone_that_names_no_contracted_dilation_has_none() -> None:
    assert habits(model(BUILT)).contracted is False
    assert habits(model(f"{BUILT}, contract_dilation=True")).contracted is True
    assert habits("decode_head=dict(align_corners=True)").contracted is None


def test_a_backbones_learning_rate_is_no_backbone() -> None:
    optimizer = "optimizer = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}))\n"
    assert habits(optimizer + model(BUILT)).contracted is False
    for word in ("'A)'", '"A)"'):
        text = f"model = dict(type={word}, backbone=dict({BUILT}))"
        assert habits(text).contracted is False, "a bracket in a word closes nothing"


MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
VALUES = f"mean={list(MEAN)}, std={list(STD)}"


@pytest.mark.parametrize(
    ("text", "order", "mean", "std"),
    [
        # 1.x: no word is BGR, and no mean is none
        (f"data_preprocessor=dict(type='SegDataPreProcessor', {VALUES})", "bgr", MEAN, STD),
        (f"data_preprocessor=dict({VALUES}, bgr_to_rgb=True)", "rgb", MEAN, STD),
        (f"data_preprocessor=dict({VALUES}, bgr_to_rgb=False, rgb_to_bgr=True)", "rgb", MEAN, STD),
        ("data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=True)", "rgb", (0,) * 3, (1,) * 3),
        ("data_preprocessor=dict(size=(512, 512))", "bgr", (0,) * 3, (1,) * 3),
        ("data_preprocessor=dict(mean=[127.5], std=[127.5])", "bgr", (127.5,) * 3, (127.5,) * 3),
        ("data_preprocessor=dict(mean=mine, std=mine)", "bgr", None, None),
        # 1.x with the step of 0.x, which turns channels by itself
        (f"data_preprocessor=dict(size=(8, 8))\npipeline=[dict({VALUES}, type='Normalize')]", "rgb", MEAN, STD),
        (
            f"data_preprocessor=dict(bgr_to_rgb=True)\npipeline=[dict({VALUES}, type='Normalize')]",
            "bgr", MEAN[::-1], STD[::-1],
        ),
        # 0.x: no word is RGB
        (f"pipeline=[dict(type='Resize'), dict(type='Normalize', {VALUES})]", "rgb", MEAN, STD),
        (f"pipeline=[dict(type='Normalize', {VALUES}, to_rgb=False)]", "bgr", MEAN, STD),
        (f"img_norm_cfg = dict({VALUES})", "rgb", MEAN, STD),
        ("pipeline=[dict(type='Resize')]", None, None, None),
    ],
)  # fmt: skip
def test_how_photos_are_fed(
    text: str, order: str | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    said = habits(text)
    assert (said.channel_order, said.mean, said.std) == (order, mean, std)


TOP = f"data_preprocessor = dict({VALUES}, bgr_to_rgb=True)\n"
INNER = "mean=[90., 91, 92], std=[1., 2, 3], bgr_to_rgb=False"
OF_TOP, OF_INNER = ("rgb", MEAN, STD), ("bgr", (90, 91, 92), (1, 2, 3))
NOBODY = (None, None, None)


@pytest.mark.parametrize(
    ("text", "fed"),
    [
        # mmengine: model.setdefault('data_preprocessor', the one at the top)
        (f"{TOP}model = dict(data_preprocessor=dict({INNER}), backbone=dict({BUILT}))", OF_INNER),
        (f"model = dict(data_preprocessor=dict({INNER}), backbone=dict({BUILT}))\n{TOP}", OF_INNER),
        (f"{TOP}model = dict(backbone=dict({BUILT}))", OF_TOP),
        (f"{TOP}model = dict(data_preprocessor=data_preprocessor, backbone=dict({BUILT}))", OF_TOP),
        (f"mine = dict({INNER})\n{TOP}model = dict(data_preprocessor=mine, backbone=dict({BUILT}))", OF_INNER),
        (f"{TOP}model = dict(data_preprocessor=None, backbone=dict({BUILT}))", ("bgr", (0,) * 3, (1,) * 3)),
        (f"{TOP}model = dict(backbone=dict({BUILT}), teacher=dict(data_preprocessor=dict({INNER})))", OF_TOP),
        (f"hooks = [dict(model=dict(data_preprocessor=dict({INNER})))]\n{TOP}model = dict(depth=50)", OF_TOP),
        (
            '{"data_preprocessor": {"mean": [1, 1, 1], "std": [1, 1, 1]}, "model": {"data_preprocessor": '
            '{"mean": [90, 91, 92], "std": [1, 2, 3]}}}',
            OF_INNER,
        ),
        # one of a part of the network, and no other: it may be the network's
        (f"model = dict(segmentor=dict(data_preprocessor=dict({INNER})), backbone=dict({BUILT}))", OF_INNER),
        (f"model = dict(a=dict(data_preprocessor=dict({INNER})), b=dict({TOP.strip()}))", NOBODY),
        (f"{TOP}model = dict(data_preprocessor=elsewhere, backbone=dict({BUILT}))", NOBODY),
    ],
)  # fmt: skip
def test_the_models_own_preprocessor_goes_before_the_one_at_the_top(
    text: str, fed: tuple[object, ...]
) -> None:
    said = habits(text)
    assert (said.channel_order, said.mean, said.std) == fed
    assert said.unclear == (("data_preprocessor",) if fed == NOBODY else ())


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("crop_size = (512, 1024)\n", (512, 1024)),
        ("crop_size = [\n    512,\n    1024,\n]\n", (512, 1024)),
        ("pipeline=[dict(type='RandomCrop', crop_size=480, cat_max_ratio=0.75)]", (480, 480)),
        ("data_preprocessor=dict(size=(512, 1024), size_divisor=32)", (512, 1024)),
        ('"data_preprocessor": {"size": [512, 1024]}', (512, 1024)),
        # the step that cuts them goes before what pads them, and before the test's windows
        (
            "p=[dict(type='mmseg.RandomCrop', crop_size=(64, 80))]\ndata_preprocessor=dict(size=(96, 96))\n"
            "crop_size=(32, 32)",
            (64, 80),
        ),
        ("data_preprocessor=dict(size=(96, 80))\nmodel=dict(test_cfg=dict(crop_size=(32, 32)))", (96, 80)),
        ("crop_size = (96, 80)\np=[dict(type='RandomCrop', crop_size=crop_size)]", (96, 80)),
        ("crop_size = (96, 80)\nmodel = dict(test_cfg=dict(mode='slide', crop_size=(32, 32)))", (96, 80)),
        ("model = dict(test_cfg=dict(mode='slide', crop_size=(96, 80)))", (96, 80)),
        ("p=[dict(type='Resize', scale=(2048, 1024)), dict(type='Pad', size_divisor=8)]", None),
    ],
)  # fmt: skip
def test_how_large_its_crops_were(text: str, crop: tuple[int, int] | None) -> None:
    assert habits(text).crop == crop
    assert habits(text).unclear == ()


def test_crops_of_several_sizes_are_none() -> None:
    said = habits(
        "a=[dict(type='RandomCrop', crop_size=(64, 80))]\nb=[dict(type='RandomCrop', crop_size=(96, 96))]"
    )
    assert (said.crop, said.unclear) == (None, ("crop_size (64 x 80 or 96 x 96)",))


def test_how_it_was_tested() -> None:
    assert habits(model(f"{BUILT}), test_cfg=dict(mode='slide', crop_size=(64, 80)")).test == "slide"
    assert habits("test_cfg = dict(mode='whole')").test == "whole"
    assert habits(model(BUILT)).test is None


def test_the_epsilon_is_that_of_batch_norms() -> None:
    adam = "optimizer = dict(type='Adam', eps=1e-08)\n"
    norm = "norm_cfg=dict(type='SyncBN', eps=0.001, requires_grad=True)"
    assert habits(adam + model(f"{BUILT}, {norm}")).bn_eps == 0.001
    assert habits(adam + model(f"{BUILT}, norm_cfg=norm_cfg", norm.replace("=d", " = d", 1))).bn_eps == 0.001
    assert habits(adam + model(f"{BUILT}, norm_cfg=dict(type='SyncBN', eps=1e-05)")).bn_eps == 1e-5
    assert habits(adam + model(f"{BUILT}, norm_cfg=dict(type='SyncBN')")).bn_eps is None
    two = f"model=dict(backbone=dict({BUILT}, {norm}), decode_head=dict(norm_cfg=dict(type='SyncBN')))"
    with pytest.raises(CheckpointError, match=r"the epsilons 1e-05, 0\.001, expected one"):
        habits(two)


def test_a_preprocessor_that_spreads_another_has_what_is_in_that() -> None:
    """As configurations are written by hand, before mmengine expands them."""
    said = habits(
        TOP + "model = dict(data_preprocessor=dict(type='SegDataPreProcessor', **data_preprocessor))"
    )
    assert (said.channel_order, said.mean, said.std, said.unclear) == ("rgb", MEAN, STD, ())


def test_none_in_the_model_is_no_preprocessor_in_json_too() -> None:
    top = '"data_preprocessor": {"mean": [1, 2, 3], "std": [4, 5, 6], "bgr_to_rgb": true}'
    said = habits(f'{{{top}, "model": {{"data_preprocessor": null}}}}')
    assert (said.channel_order, said.mean, said.std) == ("bgr", (0,) * 3, (1,) * 3)
