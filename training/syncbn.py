"""Batch normalisation over the batch of all processes, on CPUs as well.

torch's SyncBatchNorm takes GPU tensors only. The one for CPUs below computes the same: what BatchNorm2d would on
the joined batch, forward, backward and running statistics, also when the processes hold different numbers of
pixels. Names in the state_dict stay those of BatchNorm2d.

    net = syncbn.convert(net, device)   # after torch.distributed.init_process_group
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def convert(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d in `module` by one that is synchronised over the processes."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    if isinstance(module, nn.BatchNorm2d):
        return SyncBatchNorm2d.like(module)
    for name, child in module.named_children():
        module.add_module(name, convert(child, device))
    return module


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the joined batch of all processes (gloo). Every process must call it equally often."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
        """Shares the parameters and buffers of `norm`."""
        synced = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        synced.weight, synced.bias = norm.weight, norm.bias
        synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
        synced.num_batches_tracked = norm.num_batches_tracked
        return synced.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        out, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():  # the running variance is the unbiased one, as in BatchNorm2d
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        result: Tensor = out
        return result


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, mean and var over N, H, W of all processes.

    Backward (Ioffe and Szegedy, arXiv:1502.03167, section 3), with means over the joined batch:
    dx = weight / std * (dy - mean(dy) - x_hat * mean(dy * x_hat)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        wide = weight.dtype  # x may come in half precision from autocast
        mean, var, count = _joined_statistics(x.to(wide))
        out = F.batch_norm(x, mean.to(wide), var.to(wide), weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean.to(wide), torch.rsqrt(var + eps).to(wide))
        ctx.count = float(count)
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std = ctx.saved_tensors
        dy_wide = dy.to(weight.dtype)
        x_hat = (x.to(weight.dtype) - _per_channel(mean)) * _per_channel(inverse_std)
        # The sums over this process are the gradients of bias and weight; DDP joins those itself.
        sums = torch.stack([dy_wide.sum((0, 2, 3)), (dy_wide * x_hat).sum((0, 2, 3))])
        joined = sums.clone()
        dist.all_reduce(joined)
        mean_dy, mean_dy_x_hat = joined / ctx.count
        dx = (dy_wide - _per_channel(mean_dy)).addcmul_(x_hat, _per_channel(mean_dy_x_hat), value=-1)
        return (dx * _per_channel(weight * inverse_std)).to(x.dtype), sums[1], sums[0], None


def _joined_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) and number of values a channel, float64, over all processes.

    Joined from each process's mean and centred second moment (Chan, Golub and LeVeque 1979): sums of squares
    would cancel where the mean is large.
    """
    count = x.numel() // x.shape[1]
    var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    own = torch.cat([mean, var, mean.new_tensor([count])]).double()
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    means, variances, counts = torch.stack(parts).tensor_split((x.shape[1], 2 * x.shape[1]), dim=1)
    total = counts.sum()
    joined = (means * counts).sum(0) / total
    moment = (variances * counts + (means - joined).square() * counts).sum(0)
    return joined, moment / total, total


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)
