"""The loss against torch's own, with ignored pixels, and what several processes must add up to."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from training import pspnet
from training.losses import SegmentationLoss, TrainNet

IGNORE = 255


def some_batch() -> tuple[Tensor, Tensor]:
    """Logits (4, 5, 3, 4) and labels (4, 17, 25), a third of them ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, 3, 4, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (4, 17, 25), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE
    return logits, labels


def loss_of(logits: Tensor, labels: Tensor, align_corners: bool = True) -> Tensor:
    criterion = SegmentationLoss(IGNORE, align_corners)
    loss: Tensor = criterion(logits, labels, criterion.count_valid(labels))
    return loss


@pytest.mark.parametrize("align_corners", [True, False])
def test_equals_cross_entropy_on_upsampled_logits(align_corners: bool) -> None:
    logits, labels = some_batch()
    upsampled = F.interpolate(logits, (17, 25), mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(upsampled, labels, ignore_index=IGNORE)
    torch.testing.assert_close(loss_of(logits, labels, align_corners), expected)
    # the two ways to upsample differ, so the parameter is not without effect
    assert not torch.isclose(loss_of(logits, labels, not align_corners), expected, rtol=1e-5)


def test_ignored_pixels_have_no_influence() -> None:
    logits, labels = some_batch()
    labels[:, :, 12:] = IGNORE
    loss_of(logits, labels).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # with corners aligned, columns 0..11 of 25 see the logits' columns 0..2 (of 0..3) only
    assert torch.count_nonzero(logits.grad[..., 3]) == 0
    assert torch.count_nonzero(logits.grad[..., :2]) == logits.grad[..., :2].numel()


def test_nothing_valid_gives_zero_and_no_gradient() -> None:
    logits, labels = some_batch()
    loss = loss_of(logits, torch.full_like(labels, IGNORE))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, labels = some_batch()
    half = logits.detach().bfloat16()
    loss = loss_of(half, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of(half.float(), labels))


def test_parts_of_a_batch_average_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with very different numbers of valid pixels; the mean of losses and gradients is the whole's."""
    logits, labels = some_batch()
    labels[0] = IGNORE
    loss_of(logits, labels).backward()  # type: ignore[no-untyped-call]
    whole, whole_gradient = loss_of(logits, labels).item(), logits.grad
    assert whole_gradient is not None

    logits.grad = None
    num_valid = (labels != IGNORE).sum()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda count: count.copy_(num_valid))
    losses = [loss_of(logits[part], labels[part]) for part in (slice(0, 1), slice(1, 4))]
    torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
    assert losses[0].item() == 0  # the first process saw no valid pixel
    assert torch.stack(losses).mean().item() == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(logits.grad, whole_gradient)


def test_train_net_reports_both_heads() -> None:
    torch.manual_seed(0)
    model = pspnet.build("pspnet_lite0", 5, align_corners=False, dropout=0.0)
    images, labels = torch.randn(2, 3, 33, 33), some_batch()[1][:2, :, :17]
    labels = F.pad(labels, (0, 16, 0, 16), value=IGNORE)
    criterion = SegmentationLoss(IGNORE, align_corners=False)
    main, aux = TrainNet(model, criterion)(images, labels, criterion.count_valid(labels))
    logits, aux_logits = model.forward_with_aux(images)
    for loss, output in ((main, logits), (aux, aux_logits)):
        upsampled = F.interpolate(output, (33, 33), mode="bilinear", align_corners=False)
        expected = F.cross_entropy(upsampled, labels, ignore_index=IGNORE)
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    assert not torch.isclose(main, aux, rtol=1e-3)
