"""The network: shapes, exact pyramid pooling at every size, ImageNet weights that are really ImageNet's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from segserve.errors import UsageError
from training.pspnet import PYRAMID_BINS, PyramidPooling, build, pooling_matrix, upsampling_matrix

SIZES = (1, 2, 5, 6, 7, 12, 13, 31, 47, 60, 64, 97)


@pytest.mark.parametrize("num_bins", PYRAMID_BINS)
@pytest.mark.parametrize("size", SIZES)
def test_pooling_is_adaptive_average_pooling(num_bins: int, size: int) -> None:
    line = torch.randn(1, 3, size, generator=torch.Generator().manual_seed(size))
    matrix = pooling_matrix(num_bins, torch.arange(size, dtype=torch.float32))
    torch.testing.assert_close(line @ matrix.T, functional.adaptive_avg_pool1d(line, num_bins))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("num_bins", PYRAMID_BINS)
@pytest.mark.parametrize("size", SIZES)
def test_upsampling_is_bilinear_interpolation(num_bins: int, size: int, align_corners: bool) -> None:
    line = torch.randn(1, 3, num_bins, generator=torch.Generator().manual_seed(size))
    matrix = upsampling_matrix(num_bins, torch.arange(size, dtype=torch.float32), align_corners)
    expected = functional.interpolate(line, size, mode="linear", align_corners=align_corners)
    torch.testing.assert_close(line @ matrix.T, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["pspnet18", "pspnet50", "pspnet101", "pspnet_lite0"])
def test_logits_are_at_stride_8_of_any_size(preset: str) -> None:
    net = build(preset, 7).eval()
    for height, width in ((33, 47), (64, 40)):
        with torch.inference_mode():
            logits = net(torch.zeros(1, 3, height, width))
        assert logits.shape == (1, 7, -(-height // 8), -(-width // 8))


def test_the_pyramid_sees_the_last_row() -> None:
    """A kernel of floor(n / bins) would leave out the bottom edge, where floors are."""
    for num_bins in PYRAMID_BINS:
        matrix = pooling_matrix(num_bins, torch.arange(61, dtype=torch.float32))
        assert (matrix.sum(dim=0) > 0).all()
        assert matrix[-1, -1] > 0


def test_every_parameter_is_in_exactly_one_group() -> None:
    net = build("pspnet18", 3)
    groups = [*net.pretrained_parameters(), *net.new_parameters()]
    assert {id(p) for p in groups} == {id(p) for p in net.parameters()}
    assert len(groups) == len(list(net.parameters()))


def test_pretrained_lite0_tells_edges_apart() -> None:
    """ImageNet's stem filters have structure; random ones of the same size do not load as these."""
    first, second = build("pspnet_lite0", 3, pretrained=True), build("pspnet_lite0", 3, pretrained=True)
    for a, b in zip(first.backbone.parameters(), second.backbone.parameters(), strict=True):
        assert torch.equal(a, b)
    # batch-norm statistics of a trained trunk are not the initial zeros and ones
    means = [buffer for name, buffer in first.backbone.named_buffers() if name.endswith("running_mean")]
    assert all(mean.abs().sum() > 0 for mean in means)


def test_unknown_names_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"pspnet34.*pspnet18, pspnet50"):
        build("pspnet34", 3)
    with pytest.raises(UsageError, match="ImageNet"):
        build("pspnet50", 3, pretrained=True)
    with pytest.raises(UsageError, match="256"):
        build("pspnet18", 256)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_tracing_bakes_no_device_into_the_pyramid() -> None:
    """What is traced on a CPU must run where it is loaded."""
    pyramid = PyramidPooling(4, align_corners=True).eval()
    traced = torch.jit.trace(  # type: ignore[no-untyped-call]
        pyramid, torch.zeros(2, 4, 9, 11), check_trace=False
    )
    assert 'value="cpu"' not in str(traced.inlined_graph)
    features = torch.randn(1, 4, 30, 17)
    torch.testing.assert_close(traced(features), pyramid(features))
