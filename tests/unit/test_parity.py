"""The figures of a comparison on label maps small enough to count by hand, and the verdict on them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.cases import Case, Picture
from export.compare import compare, iou_changes, near_boundary, ties
from export.parity import batches, reference_facts
from segserve import class_costs
from segserve import parity_report as report
from segserve.geometry import Geometry
from segserve.mask import label_map
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE, Row

CLASSES = ("wall", "floor", "plant")


def case(logits: NDArray[np.float32], height: int = 12, width: int = 20) -> Case:
    """The checkpoint's answer on a picture whose logits are these."""
    geometry = Geometry.letterbox(height, width, height, width)
    return Case(AS_SERVED, "a.jpg", b"", geometry, logits, label_map(logits, geometry, True))


@pytest.fixture
def halves() -> Case:
    """Wall on the left, floor on the right, a plant in the corner."""
    logits = np.zeros((3, 3, 5), np.float32)
    logits[0, :, :2], logits[1, :, 2:], logits[2, 0, 4] = 4, 5, 9
    return case(logits)


def row(halves: Case, logits: NDArray[np.float32], labels: NDArray[np.uint8], allowed: float = 1e-4) -> Row:
    return compare(halves, logits, labels, 2, CLASSES, align_corners=True, allowed_error=allowed)


def test_equal_answers_have_no_errors(halves: Case) -> None:
    same = row(halves, halves.logits.copy(), halves.labels.copy())
    assert (same.max_abs_error, same.mean_abs_error, same.differing, same.ties) == (0, 0, 0, 0)
    assert (same.label_agreement, same.boundary_agreement, same.vanished) == (1, 1, [])
    assert same.iou_change_points == {"wall": 0, "floor": 0, "plant": 0}


def test_errors_are_counted_where_they_are(halves: Case) -> None:
    logits, labels = halves.logits.copy(), halves.labels.copy()
    logits[1, 2, 3] += 0.5
    labels[11, :3] = 1  # far from being a tie: the wall leads by 4 there
    got = row(halves, logits, labels)
    assert got.max_abs_error == pytest.approx(0.5)
    assert got.max_error_class == "floor"
    assert got.mean_abs_error == pytest.approx(0.5 / 45)
    assert (got.differing, got.ties) == (3, 0)
    assert got.label_agreement == pytest.approx(1 - 3 / 240)
    walls, floors = (halves.labels == 0).sum(), (halves.labels == 1).sum()
    assert got.iou_change_points["wall"] == pytest.approx(100 * (walls - 3) / walls - 100)
    assert got.iou_change_points["floor"] == pytest.approx(100 * floors / (floors + 3) - 100)
    assert got.worst_class == min(got.iou_change_points.items(), key=lambda item: item[1])


def test_a_class_that_is_found_no_more_is_named(halves: Case) -> None:
    labels = np.where(halves.labels == 2, 1, halves.labels).astype(np.uint8)
    got = row(halves, halves.logits, labels)
    assert got.vanished == ["plant"]
    plants = int((halves.labels == 2).sum())
    assert got.kept["plant"] == (plants, 0)
    assert got.kept["wall"] == ((halves.labels == 0).sum(), (halves.labels == 0).sum())
    assert got.worst_class == ("plant", -100)


def test_a_pixel_on_which_the_checkpoint_is_undecided_is_a_tie() -> None:
    # without fractions in the positions: 9 x 17 pixels over 2 x 3 cells with align_corners
    logits = np.zeros((3, 2, 3), np.float32)
    logits[0], logits[1] = 1.0, 1.0 - 1e-3
    logits[1, 0, 2] = 0.0  # here the wall leads clearly
    undecided = case(logits, 9, 17)
    assert (undecided.labels == 0).all()
    everywhere = np.ones((9, 17), np.uint8)
    tied = ties(undecided, everywhere, True, 2e-3)
    assert tied[:, :9].all()  # up to the middle corner
    assert not tied[0, 10:].any()
    assert not ties(undecided, everywhere, True, 5e-4).any()

    labels = undecided.labels.copy()
    labels[4, 2] = 1
    got = row(undecided, logits, labels, allowed=1e-3)
    assert (got.differing, got.ties) == (1, 1)
    assert got.iou_change_points == {"wall": 0}
    assert got.label_agreement == pytest.approx(1 - 1 / 153)


def test_answers_that_cannot_be_compared_are_an_error(halves: Case) -> None:
    with pytest.raises(ValueError, match="logits are float32"):
        row(halves, halves.logits[:, :2], halves.labels)
    with pytest.raises(ValueError, match="labels are uint8"):
        row(halves, halves.logits, halves.labels[1:])
    broken = halves.logits.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="logits of class wall are not finite"):
        row(halves, broken, halves.labels)


def test_iou_changes_by_hand() -> None:
    expected = np.array([[0, 0, 1, 1]], np.uint8)
    got = np.array([[0, 1, 1, 2]], np.uint8)
    assert iou_changes(expected, got) == {0: pytest.approx(-50), 1: pytest.approx(100 / 3 - 100)}


def test_the_band_around_boundaries() -> None:
    labels = np.zeros((9, 12), np.uint8)
    labels[:, 6:] = 1
    for distance in (1, 2, 3):
        band = near_boundary(labels, distance)
        assert band.sum(axis=1).tolist() == [2 * distance] * 9
        assert band[:, 6 - distance : 6 + distance].all()
    assert not near_boundary(np.zeros((4, 4), np.uint8), 3).any()


def pictures(photos: int) -> list[Picture]:
    return [Picture(AS_SERVED, str(n), lambda: b"") for n in range(photos)] + [
        Picture(AT_INPUT_SIZE, name, lambda: b"") for name in ("room", "mirrored", "other", "other mirrored")
    ]


@pytest.mark.parametrize(("photos", "sizes"), [(5, [1, 2, 5]), (8, [1, 2, 5]), (14, [1, 2, 5, 5, 5])])
def test_every_photo_has_its_turn(photos: int, sizes: list[int]) -> None:
    made = batches(pictures(photos))
    assert [len(batch) for batch in made[:-4]] == sizes
    assert {picture.name for batch in made[:-4] for picture in batch} == {str(n) for n in range(photos)}
    inputs = [[picture.name for picture in batch] for batch in made[-4:]]
    assert inputs == [["room"], ["room", "mirrored"], ["other"], ["other", "other mirrored"]]


def test_signal_is_what_depends_on_the_picture() -> None:
    constant = np.zeros((3, 2, 4), np.float32)
    constant[0] = 6
    by_place = constant.copy()
    by_place[0, 1] = 8  # what padding does to a network that ignores its input
    for logits in (constant, by_place):
        same = dataclasses.replace(case(logits), kind=AT_INPUT_SIZE)
        facts = reference_facts([case(logits), same, same], CLASSES)
        assert facts["signal"] == 0
    assert reference_facts([case(by_place)], CLASSES)["signal"] == 0  # no two pictures of one size
    other = dataclasses.replace(case(by_place + np.float32(2)), kind=AT_INPUT_SIZE)
    assert reference_facts([same, other], CLASSES)["signal"] == pytest.approx(np.sqrt(2))
    facts = reference_facts([case(constant)], CLASSES)
    assert facts["logit_std"] == pytest.approx(np.sqrt(8))
    assert facts["classes_seen"] == ["wall"]
    (reason,) = report.signal_failures(facts)
    assert "train it first" in reason
    assert report.signal_failures({"signal": 1.0, "logit_std": 3.0}) == []


GOOD = Row(
    kind=AT_INPUT_SIZE, image="room", batch_size=1, height=100, width=100, max_abs_error=1e-5,
    max_error_class="floor", mean_abs_error=1e-6, differing=0, ties=0, boundary_agreement=1.0,
    iou_change_points={"wall": 0.0, "floor": 0.0}, vanished=[],
)  # fmt: skip


def rows(**changes: Any) -> list[Row]:
    """Enough good rows to pass, the first one changed."""
    made = [dataclasses.replace(GOOD, height=100 + n) for n in range(12)]
    made += [dataclasses.replace(row, batch_size=2) for row in made]
    made += [dataclasses.replace(GOOD, kind=AS_SERVED, image="a.jpg", batch_size=n) for n in (1, 2, 5)]
    return [dataclasses.replace(made[0], **changes), *made[1:]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"max_abs_error": 1.1e-4}, "a logit of class floor is off by 1.10e-04, allowed 1.00e-04"),
        ({"differing": 2}, "99.980 % (expected 99.99 %) of the labels agree, class wall loses most"),
        (
            {"boundary_agreement": 0.998},
            "99.800 % (expected 99.9 %) agree near class boundaries, class wall loses most",
        ),
        ({"iou_change_points": {"wall": 0.0, "floor": -0.06}}, "class floor loses 0.06 points of IoU, allowed 0.05"),
        ({"vanished": ["plant", "chair"]}, "vanished: plant, chair"),
    ],
)  # fmt: skip
def test_each_limit_counts(changes: dict[str, Any], reason: str) -> None:
    assert report.failures(rows(**changes), [], "fp32", 1.0) == [f"room (input size, batch of 1): {reason}"]


def test_a_class_that_goes_from_the_photos_fails_whatever_the_precision() -> None:
    """So few pixels of so many that the agreement does not show it, and rendered rooms keep theirs."""
    served = [
        dataclasses.replace(
            GOOD, kind=AS_SERVED, image=f"{n}.jpg", yours=True, kept={"floor": (900, kept), "wall": (10**5, 10**5)}
        )
        for n, kept in enumerate((0, 700, 649))
    ]  # fmt: skip
    rendered = dataclasses.replace(served[0], yours=False, kept={"floor": (10**6, 10**6)})
    said = ["class floor keeps 49.96 % of its pixels over all your photos, expected 50 % or more"]
    assert class_costs.lost_classes([*served, rendered]) == said
    again = dataclasses.replace(served[1], differing=50)
    assert class_costs.lost_classes([*served, again, again]) == said  # in three batches, and still one photo
    # of a photo that was answered twice, the answer with fewer floors counts, whatever became of the rest
    better = dataclasses.replace(served[2], kept={"floor": (900, 900), "wall": (10**5, 10**5)}, differing=50)
    assert class_costs.lost_classes([*served, better]) == class_costs.lost_classes([better, *served]) == said
    few = [dataclasses.replace(served[0], yours=yours, kept={"bed": (1500, 0)}) for yours in (False, True)]
    assert class_costs.lost_classes(few[:1]) == []
    assert class_costs.lost_classes(few) == [
        "class bed keeps 0.00 % of its pixels over all pictures as served, expected 50 % or more"
    ]
    assert class_costs.lost_classes(
        [dataclasses.replace(served[0], yours=False, kept={"bed": (3000, 1400)})]
    ) == ["class bed keeps 46.67 % of its pixels over all rendered rooms as served, expected 50 % or more"]
    assert class_costs.lost_classes(served)[0] in report.failures([*rows(), *served], [], "int8", 1.0, None)
    enough = dataclasses.replace(served[2], kept={"floor": (900, 650)})
    assert class_costs.lost_classes([*served[:2], enough]) == []
    assert class_costs.lost_classes(served[:2]) == []  # too few pixels to judge by


@pytest.mark.parametrize(
    "changes",
    [
        {"max_abs_error": math.nan}, {"boundary_agreement": math.nan},
        {"iou_change_points": {"wall": 0.0, "floor": math.nan, "plant": 0.0}},
    ],
)  # fmt: skip
def test_what_is_no_number_fails(changes: dict[str, Any]) -> None:
    assert len(report.failures(rows(**changes), [], "fp32", 1.0)) == 1


def test_no_limit_can_be_had_from_logits_that_are_no_numbers() -> None:
    assert report.signal_failures({"signal": math.nan, "logit_std": 1.0})
    assert report.signal_failures({"signal": 1.0, "logit_std": math.inf})


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 0}, {"width": -1}, {"ties": -1}, {"differing": 1, "ties": 2}, {"differing": 10**6},
        {"iou_change_points": {}},
    ],
)  # fmt: skip
def test_rows_that_no_comparison_yields_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="room"):
        rows(**changes)


def test_what_is_within_the_limits_passes() -> None:
    assert report.failures(rows(), [], "fp32", 1.0) == []
    assert report.failures(rows(max_abs_error=1e-4, differing=2, ties=1), [], "fp32", 1.0) == []


def test_the_logit_limit_grows_with_the_logits_and_never_shrinks() -> None:
    assert report.failures(rows(max_abs_error=6e-4), [], "fp32", 7.0) == []
    assert report.failures(rows(max_abs_error=9e-5), [], "fp32", 0.01) == []
    assert len(report.failures(rows(max_abs_error=8e-4), [], "fp32", 7.0)) == 1


def test_ties_count_over_all_comparisons_together() -> None:
    many = [dataclasses.replace(r, differing=2, ties=2) for r in rows()]
    (reason,) = report.failures(many, [], "fp32", 1.0)
    assert reason.startswith("all comparisons together: 99.9")
    assert "fewest in room (input size, batch of 1), where the logits of class floor are off most" in reason


def test_too_little_is_no_proof() -> None:
    few = report.failures(rows()[1:], [], "fp32", 1.0)
    assert few == ["compared at 11 input sizes, alone and in batches, expected at least 12"]
    assert report.failures(rows()[:12] + rows()[13:], [], "fp32", 1.0) == few
    assert len(report.failures(rows()[:-1], [], "fp32", 1.0)) == 1
    assert len(report.failures([], [], "fp32", 1.0)) == 2
    assert report.failures(rows(), ["a.jpg: out of memory"], "fp32", 1.0) == ["a.jpg: out of memory"]
