"""OHEM, class weights and pairs: each against a few lines of its own in float64, alone and together."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from segserve.errors import UsageError
from training import class_weights
from training.config import TrainConfig
from training.hard_pixels import hard_pixels
from training.losses import SegmentationLoss, Terms
from training.machines import Machines
from training.options import LossOptions
from training.report_file import Report, pairs_of

IGNORE, CLASSES = 255, ("wall", "floor", "ceiling", "sofa")
WEIGHTS = (1.0, 2.5, 0.5, 7.0)


def batch() -> tuple[Tensor, Tensor]:
    """Logits float64 (3, 4, 5, 6) and labels (3, 13, 17), a quarter of them ignored."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 13, 17), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.25] = IGNORE
    return logits.requires_grad_(), labels


def loss_of(terms: Terms, logits: Tensor, labels: Tensor) -> Tensor:
    criterion = SegmentationLoss(IGNORE, align_corners=True, terms=terms)
    loss: Tensor = criterion(logits, labels, criterion.count_valid(labels))
    return loss


def plainly(terms: Terms, logits: Tensor, labels: Tensor) -> float:
    """The equation of SegmentationLoss, one pixel after the other."""
    full = F.interpolate(logits.detach(), labels.shape[1:], mode="bilinear", align_corners=True)
    above, below = 0.0, 0.0
    for n in range(len(labels)):
        pixels = [(y, x) for y, x in np.argwhere((labels[n] != IGNORE).numpy())]
        nll = {(y, x): -math.log(full[n, :, y, x].softmax(0)[labels[n, y, x]].item()) for y, x in pixels}
        kept = list(pixels)
        if terms.ohem:
            hardest = sorted(pixels, key=lambda at: -nll[at])[: math.ceil(terms.ohem_keep * len(pixels))]
            kept = [at for at in pixels if math.exp(-nll[at]) < terms.ohem or at in hardest]
        for y, x in kept:
            label, z = int(labels[n, y, x]), full[n, :, y, x]
            rivals = [b if label == a else a for a, b in terms.pairs if label in (a, b)]
            within = sum(math.log1p(math.exp(float(z[rival] - z[label]))) for rival in rivals)
            weight = terms.class_weights[label] if terms.class_weights else 1.0
            above += weight * (nll[y, x] + terms.pair_weight * within)
            below += weight
    return above / below


@pytest.mark.parametrize(
    "terms",
    [
        Terms(),
        Terms(class_weights=WEIGHTS),
        Terms(ohem=0.3, ohem_keep=0.01),
        Terms(ohem=0.01, ohem_keep=0.4),  # hardly any is below the threshold: the hardest are taken
        Terms(pairs=((0, 1), (1, 2)), pair_weight=0.5),
        Terms(WEIGHTS, 0.4, 0.05, ((3, 1),), 2.0),
    ],
)
def test_the_loss_is_what_its_docstring_says(terms: Terms) -> None:
    logits, labels = batch()
    assert loss_of(terms, logits, labels).item() == pytest.approx(plainly(terms, logits, labels), rel=1e-9)


@pytest.mark.parametrize("terms", [Terms(class_weights=WEIGHTS), Terms(WEIGHTS, 0.4, 0.05, ((3, 1),), 2.0)])
def test_without_a_valid_pixel_it_is_zero(terms: Terms) -> None:
    logits, labels = batch()
    loss = loss_of(terms, logits, torch.full_like(labels, IGNORE))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


@pytest.mark.parametrize(
    "terms",
    [Terms(class_weights=WEIGHTS), Terms(ohem=0.3, ohem_keep=0.01), Terms(WEIGHTS, 0.4, 0.05, ((3, 1),))],
)
def test_two_processes_average_to_one(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over processes are joined by adding what the other one would give: here both are at hand."""
    logits, labels = batch()
    labels[0, :9] = IGNORE  # the first has fewer pixels
    whole = loss_of(terms, logits, labels).item()
    parts = [(logits[:1], labels[:1]), (logits[1:], labels[1:])]
    alone = [sums_of(terms, *part, monkeypatch) for part in parts]
    joined = [a + b for a, b in zip(*alone, strict=True)]
    losses = [sums_of_with(terms, *part, joined, monkeypatch) for part in parts]
    assert sum(losses) / 2 == pytest.approx(whole, rel=1e-9)


def sums_of(terms: Terms, logits: Tensor, labels: Tensor, patch: pytest.MonkeyPatch) -> list[Tensor]:
    """What a process would put into each all_reduce."""
    seen: list[Tensor] = []
    two_processes(patch, lambda tensor: seen.append(tensor.clone()))
    loss_of(terms, logits, labels)
    return seen


def sums_of_with(
    terms: Terms, logits: Tensor, labels: Tensor, joined: list[Tensor], patch: pytest.MonkeyPatch
) -> float:
    left = iter(joined)
    two_processes(patch, lambda tensor: tensor.copy_(next(left)))
    return loss_of(terms, logits, labels).item()


def two_processes(patch: pytest.MonkeyPatch, join: object) -> None:
    patch.setattr(dist, "is_initialized", lambda: True)
    patch.setattr(dist, "get_world_size", lambda: 2)
    patch.setattr(dist, "all_reduce", join)


def test_hard_pixels_are_counted_for_each_image() -> None:
    nll = torch.tensor([[[0.1, 0.2, 3.0, 0.3]], [[0.1, 0.2, 0.15, 9.0]]])
    counted = torch.tensor([[[True, True, True, True]], [[True, True, True, False]]])
    kept = hard_pixels(nll, counted, threshold=0.5, keep=0.5)
    assert kept.tolist() == [[[False, False, True, True]], [[False, True, True, False]]]


# --- weights ------------------------------------------------------------------------------------------------


def test_rare_classes_count_more_up_to_a_limit() -> None:
    found = class_weights.balanced(np.array([900, 99, 1, 0]))
    assert found[0] == 1
    assert found[1] == pytest.approx(math.log(1.02 + 0.9) / math.log(1.02 + 0.099))
    assert found[2] == found[3] == class_weights.MOST_BALANCED


def report(tmp_path: Path, **changes: object) -> Path:
    rows = {
        "wall": {"iou": 0.9, "accuracy": 0.95}, "floor": {"iou": 0.4, "accuracy": 0.5},
        "ceiling": {"iou": 0.8, "accuracy": 0.9}, "sofa": {"iou": None, "accuracy": None},
    }  # fmt: skip
    pairs = [
        {"classes": ["floor", "wall"], "miou_points": 4.0},
        {"classes": ["sofa", "wall"], "miou_points": 0.0},
    ]
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"classes": rows, "pairs": pairs, **changes}))
    return path


def test_what_a_model_missed_counts_more(tmp_path: Path) -> None:
    wall, floor, ceiling, sofa = class_weights.from_report(report(tmp_path), CLASSES)
    missed = [0.9 * (1 / 0.95 - 1), 0.4 * (1 / 0.5 - 1), 0.8 * (1 / 0.9 - 1)]
    assert floor == pytest.approx(missed[1] / np.mean(missed))
    assert (wall, sofa) == (class_weights.LEAST_REPORT, 1.0)
    assert wall <= ceiling < floor


def test_the_dearest_pairs_are_read(tmp_path: Path) -> None:
    assert Report.read(report(tmp_path), CLASSES).pairs == ((1, 0),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"pairs": 3}, "is no report"), ({"classes": {"road": {"iou": 1, "accuracy": 1}}}, "road")],
)
def test_a_report_that_is_none_is_told(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Report.read(report(tmp_path, **change), CLASSES)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("wall", "colon"),
        ("wall:wall", "takes two"),
        ("wall:road", "no class 'road'"),
        ("wall:floor,floor:wall", "twice"),
    ],
)
def test_pairs_that_are_none_are_told(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        pairs_of(text, CLASSES)


@pytest.mark.parametrize(
    "options",
    [
        {"ohem": 1.0},
        {"ohem_keep": 0.0},
        {"pair_weight": 0.0},
        {"pair_weight": 2.0},
        {"ohem_keep": 0.5},
        {"pairs": "a:b", "pairs_from": Path("x")},
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        LossOptions(**options)  # type: ignore[arg-type]


def test_hard_pixels_of_micro_batches_are_refused() -> None:
    with pytest.raises(UsageError, match="known only after all"):
        TrainConfig(
            (Path("a.toml"),), Path("out"), loss=LossOptions(ohem=0.7), machines=Machines(accumulate=2)
        )
