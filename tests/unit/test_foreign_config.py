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
