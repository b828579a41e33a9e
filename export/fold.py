"""PSPNet -> the same function with fewer operations, for every engine alike. Done once, before export.

Two rewrites, both exact but for rounding (parity is checked on what comes out of them):

- Batch norms are folded into the convolutions before them.
- The head's 3x3 convolution reads the features and four pyramid levels spread over the map.
  Spreading and convolving are both linear, so the taps of the filter are applied to the 1 + 4 + 9 + 36 cells of
  the levels, and the results are spread, shifted by the tap. That saves a fifth of all multiplications of a pspnet50
  at 480 x 480 (34 of 162 G), whatever the engine and the precision.

    folded = fold(load_model(Path("model_store/demo/rooms.safetensors"))[0])
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.pspnet import PYRAMID_BINS, PSPNet, line, pooling_matrix, upsampling_matrix


def fold(net: PSPNet) -> nn.Module:
    """A network that answers like `net.eval()`: normalised images_nchw -> logits; `net` itself is not changed."""
    net = copy.deepcopy(net).eval()
    net.aux = nn.Sequential()  # for training only
    _fold_batch_norms(net)
    return FoldedPSPNet(net).eval()


class FoldedPSPNet(nn.Module):
    """The backbone, then pyramid and head in one."""

    def __init__(self, net: PSPNet) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.levels = net.pyramid.levels
        self.align_corners = net.align_corners
        conv = next(module for module in net.head.modules() if isinstance(module, nn.Conv2d))
        assert conv.kernel_size == (3, 3) and conv.bias is not None  # noqa: PT018
        channels = net.backbone.c4_channels
        self.features_conv = nn.Conv2d(channels, conv.out_channels, 3, padding=1)
        self.features_conv.weight = nn.Parameter(conv.weight[:, :channels].detach().clone())
        self.features_conv.bias = conv.bias
        self.taps = nn.ModuleList(
            _taps(part) for part in conv.weight[:, channels:].chunk(len(PYRAMID_BINS), dim=1)
        )
        self.activation, self.classifier, self.decide = net.head[1], net.head[-1], net.decide

    def forward(self, images_nchw: Tensor) -> Tensor:
        features: Tensor = self.backbone(images_nchw)[1]
        hidden = self.features_conv(features) + self._context(features)
        logits: Tensor = self.decide(self.classifier(self.activation(hidden)))
        return logits

    def _context(self, features: Tensor) -> Tensor:
        """What the four levels add to the head's convolution, (N, C, h, w) -> (N, out_channels, h, w)."""
        rows, columns = line(features[0, 0, :, 0].float()), line(features[0, 0, 0, :].float())
        across = torch.cat([pooling_matrix(bins, columns) for bins in PYRAMID_BINS]).to(features.dtype)
        # the one product that reads the whole map; all levels at once
        narrowed = torch.split(features @ across.transpose(0, 1), list(PYRAMID_BINS), dim=3)
        spread_rows, spread_columns = [], []
        for bins, level, taps, part in zip(PYRAMID_BINS, self.levels, self.taps, narrowed, strict=True):
            down = pooling_matrix(bins, rows).to(features.dtype)
            answers = taps(level(down @ part))  # (N, out * 3 * 3, bins, bins)
            answers = answers.unflatten(1, (-1, 3, 3)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
            up = _shifted(upsampling_matrix(bins, rows, self.align_corners)).to(features.dtype)
            spread_rows.append(up @ answers)  # (N, out, h, 3 * bins)
            spread_columns.append(_shifted(upsampling_matrix(bins, columns, self.align_corners)))
        out = torch.cat(spread_columns, dim=1).to(features.dtype)
        return torch.cat(spread_rows, dim=3) @ out.transpose(0, 1)


def _taps(weight: Tensor) -> nn.Conv2d:
    """The filter (out, in, 3, 3) as a 1x1 convolution to out * 3 * 3 channels."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0] * 9, 1, bias=False)
    conv.weight = nn.Parameter(weight.detach().permute(0, 2, 3, 1).reshape(-1, weight.shape[1], 1, 1).clone())
    return conv


def _shifted(matrix: Tensor) -> Tensor:
    """(n, bins) -> (n, 3 * bins): row i holds rows i-1, i and i+1, with zeros beyond the map as the padding is."""
    nothing = torch.zeros_like(matrix[:1])
    before, after = torch.cat([nothing, matrix[:-1]]), torch.cat([matrix[1:], nothing])
    return torch.cat([before, matrix, after], dim=1)


def _fold_batch_norms(module: nn.Module) -> None:
    """Wherever a convolution is followed by its batch norm in an nn.Sequential."""
    for child in module.children():
        _fold_batch_norms(child)
    if not isinstance(module, nn.Sequential):
        return
    for index in range(len(module) - 1):
        conv, norm = module[index], module[index + 1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[index] = fuse_conv_bn_eval(conv, norm)
            module[index + 1] = nn.Identity()
