"""Synchronised batch norm in two gloo processes is BatchNorm2d on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from training import syncbn

CHANNELS = 6
SPLITS = {"equal": (3, 3), "unequal": (1, 5), "single values": (1, 1)}
OFFSET = 300.0  # a mean far from zero: sums of squares in float32 would lose the variance


def case(name: str) -> tuple[Tensor, Tensor]:
    """The joined batch and the gradient of its output, float64."""
    size = 1 if name == "single values" else 4
    generator = torch.Generator().manual_seed(len(name))
    shape = (sum(SPLITS[name]), CHANNELS, size, size + 1 if size > 1 else 1)
    x, dy = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    return x + OFFSET, dy


def part(joined: Tensor, name: str, rank: int) -> Tensor:
    first = SPLITS[name][0]
    return joined[:first] if rank == 0 else joined[first:]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(CHANNELS, eps=1e-3, momentum=0.3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return nn.Sequential(nn.Sequential(norm), nn.ReLU())


def results(net: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Output, gradients, statistics after two steps and the output in eval mode."""
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        net.zero_grad()
        y = net(leaf)
        y.backward(dy)
    assert leaf.grad is not None
    found = {"y": y.detach(), "dx": leaf.grad, "eval": net.eval()(x).detach()}
    found |= {f"grad {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    return found | net.state_dict()


def one_of_two(rank: int, folder: Path) -> None:
    """What each process does: its part of every case, saved for the test to compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for name in SPLITS:
        x, dy = (part(joined, name, rank) for joined in case(name))
        net = syncbn.convert(network().double(), torch.device("cpu"))
        found[name] = results(net, x.contiguous(memory_format=torch.channels_last), dy)
    for dtype in (torch.float32, torch.bfloat16):
        net = syncbn.convert(network(), torch.device("cpu"))
        x, dy = (part(joined, "unequal", rank).to(dtype) for joined in case("unequal"))
        found[str(dtype)] = results(net, x, dy)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """The results of both processes."""
    folder = tmp_path_factory.mktemp("syncbn")
    spawn(one_of_two, (folder,), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def compare(
    found: list[dict[str, Tensor]],
    expected: dict[str, Tensor],
    rtol: float,
    atol: float,
    keys: tuple[str, ...] = (),
) -> None:
    """What both processes found, put together, with what one process with the joined batch finds."""
    assert found[0].keys() == found[1].keys() == expected.keys()
    for key in keys or expected:
        if key in ("y", "dx", "eval"):
            joined = torch.cat([process[key] for process in found])
        elif key.startswith("grad "):  # DDP averages them; summed they are those of the joined batch
            joined = found[0][key] + found[1][key]
        else:  # statistics and parameters are the same in both
            joined = found[0][key]
            assert torch.equal(joined, found[1][key])
        assert torch.allclose(joined.double(), expected[key].double(), rtol=rtol, atol=atol), key


@pytest.mark.parametrize("name", SPLITS)
def test_equals_batch_norm_on_the_joined_batch(found: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    compare([process[name] for process in found], results(network().double(), *case(name)), 1e-9, 1e-9)


def test_variance_survives_a_large_mean_in_float32(found: list[dict[str, dict[str, Tensor]]]) -> None:
    x, dy = case("unequal")
    expected = results(network().double(), x.float().double(), dy.float().double())
    compare([process["torch.float32"] for process in found], expected, 1e-3, 1e-3)


def test_half_precision_passes_through(found: list[dict[str, dict[str, Tensor]]]) -> None:
    """As autocast calls it: activations in bfloat16, parameters and statistics in float32."""
    x, dy = case("unequal")
    expected = results(network().double(), x.bfloat16().double(), dy.bfloat16().double())
    parts = [process["torch.bfloat16"] for process in found]
    assert parts[0]["y"].dtype == parts[0]["dx"].dtype == torch.bfloat16
    assert parts[0]["0.0.running_var"].dtype == torch.float32
    compare(parts, expected, 0.02, 0.02, keys=("y", "0.0.running_mean", "0.0.running_var"))


def test_conversion_keeps_names_and_parameters() -> None:
    net = network()
    names, weight = list(net.state_dict()), next(net.parameters())
    converted = syncbn.convert(net.eval(), torch.device("cpu"))
    assert list(converted.state_dict()) == names
    norm = next(m for m in converted.modules() if isinstance(m, nn.BatchNorm2d))
    assert isinstance(norm, syncbn.SyncBatchNorm2d)
    assert norm.weight is weight
    assert not norm.training
    assert (norm.eps, norm.momentum) == (1e-3, 0.3)
