"""How other repositories feed their networks, and how they save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = NDArray[np.uint8]


def fed_255(rgb: Pixels) -> Tensor:
    """semseg and MMSegmentation: RGB, 0 to 255, mean and std of that scale."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) * 255 for v in (MEAN, STD))
    return ((torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() - mean) / std)[None]


def fed_unit(rgb: Pixels) -> Tensor:
    """CSAIL: divided by 255 first."""
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (MEAN, STD))
    return ((torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255 - mean) / std)[None]


def fed_caffe(rgb: Pixels) -> Tensor:
    """Networks that came from Caffe: BGR, a mean only."""
    bgr = torch.from_numpy(rgb[:, :, ::-1].copy()).permute(2, 0, 1).float()
    return (bgr - torch.tensor((103.53, 116.28, 123.675)).reshape(3, 1, 1))[None] / 50


def save_semseg(net: nn.Module, folder: Path) -> tuple[Path, ...]:
    wrapped = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 100, "state_dict": wrapped, "optimizer": {"lr": 0.1}}, folder / "s.pth")
    return (folder / "s.pth",)


def save_mmseg(net: nn.Module, folder: Path) -> tuple[Path, ...]:
    meta = {"CLASSES": ("a", "b", "c", "d", "e"), "epoch": 3}
    torch.save({"meta": meta, "state_dict": net.state_dict()}, folder / "m.pth")
    return (folder / "m.pth",)


def save_csail(net: Any, folder: Path) -> tuple[Path, ...]:
    torch.save(net.encoder.state_dict(), folder / "encoder.pth")
    torch.save(net.decoder.state_dict(), folder / "decoder.pth")
    return folder / "encoder.pth", folder / "decoder.pth"
