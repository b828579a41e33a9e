"""Joint augmentation of a photo and its label map: scale, crop, flip, rotation; then colour and blur on the photo.

The recipe is the paper's (Zhao et al., Pyramid Scene Parsing Network, 2017, section 5.1; ranges as in the authors'
semseg): random resize by 0.5 to 2, mirror, rotation by -10 to 10 degrees, Gaussian blur, and some colour.

Scale 1 is the scale at which the server sees the photo, letterboxed to the network's input, so that photos of any
size are learnt at the sizes at which they are met later. The photo is resized with the antialiasing filter that the
server uses, not warped in one step: a warp that shrinks a large photo would show the network aliasing that it never
gets when served. The label is warped in one step, nearest neighbour, from the file's own pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from segserve.errors import UsageError
from segserve.resize import PAD_VALUE

PADDING = (PAD_VALUE,) * 3  # as the server's letterbox
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How far each change may go; the value is drawn evenly from the range. 0 (or scale 1 to 1) switches one off."""

    scale_min: float = 0.5
    """Smallest size of a photo in a training crop; 1 is the size at which it is served."""
    scale_max: float = 2.0
    """Largest size, likewise."""
    rotation_degrees: float = 10.0
    """Photos are turned by at most so much to either side."""
    rotation_probability: float = 0.5
    """Share of the crops that are turned."""
    flip_probability: float = 0.5
    """Share that is mirrored."""
    blur_probability: float = 0.5
    """Share that is blurred."""
    blur_sigma_max: float = 1.2
    """Largest sigma of the blur, in pixels of the crop."""
    brightness: float = 0.3
    """Brightness is multiplied by 1 - x to 1 + x."""
    contrast: float = 0.3
    """Contrast, likewise."""
    saturation: float = 0.3
    """Saturation, likewise."""
    hue_degrees: float = 10.0
    """Colours turn around the colour circle by at most so much."""

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max:
            raise UsageError(
                f"scale {self.scale_min} to {self.scale_max}: expected 0 < scale_min <= scale_max"
            )
        for name in ("rotation_probability", "flip_probability", "blur_probability", "brightness", "contrast",
                     "saturation"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.rotation_degrees < 90 or self.blur_sigma_max < 0 or self.hue_degrees < 0:
            raise UsageError(
                "rotation_degrees must be in 0 to 90 (exclusive), blur_sigma_max, hue_degrees >= 0"
            )


@dataclass(frozen=True)
class Placement:
    """Where the photo lies on the crop: resized to content, mirrored, moved, turned around the crop's centre."""

    photo_height: int
    photo_width: int
    content_height: int
    content_width: int
    top: int  # of the content in the crop before turning; negative where the crop cuts something off
    left: int
    angle: float  # radians, clockwise
    flip: bool

    def to_content(self, height: int, width: int) -> NDArray[np.float64]:
        """Matrix (2, 3): a point (x, y, 1) of a crop of that size -> (x, y) on the mirrored content."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[cos, sin], [-sin, cos]])
        centre = np.array([width / 2, height / 2])
        shift = centre - turn @ centre - np.array([self.left, self.top])
        return np.column_stack([turn, shift])


def augment(
    rng: np.random.Generator,
    photo_hwc: NDArray[np.uint8],
    label_hw: NDArray[np.uint8],
    height: int,
    width: int,
    augmentation: Augmentation,
    ignore_label: int,
    input_size: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Crop uint8 (height, width, 3) and label uint8 (height, width); outside the photo: PADDING and ignore_label.

    input_size: height and width that the model is served with; the crop's if left out.
    """
    photo_height, photo_width, _ = photo_hwc.shape
    placement = draw_placement(rng, photo_height, photo_width, height, width, augmentation, input_size)
    label = place_label(label_hw, placement, height, width, ignore_label)
    seen, origin = visible_content(photo_hwc, placement, height, width)
    seen = jitter_colour(rng, seen, augmentation)
    seen = blur(rng, seen, augmentation)
    return place_photo(seen, origin, placement, height, width), label


def draw_placement(
    rng: np.random.Generator,
    photo_height: int,
    photo_width: int,
    height: int,
    width: int,
    limits: Augmentation,
    input_size: tuple[int, int] | None = None,
) -> Placement:
    """Random scale, position, rotation and mirroring. Scale 1 is the letterbox to `input_size` (as in augment)."""
    input_height, input_width = input_size or (height, width)
    served = min(input_height / photo_height, input_width / photo_width)
    scale = rng.uniform(limits.scale_min, limits.scale_max) * served
    content_height = max(1, round(photo_height * scale))
    content_width = max(1, round(photo_width * scale))
    room = height - content_height, width - content_width  # negative: the crop moves over the content instead
    top, left = (int(rng.integers(min(0, free), max(0, free), endpoint=True)) for free in room)
    turned = rng.random() < limits.rotation_probability
    angle = math.radians(rng.uniform(-limits.rotation_degrees, limits.rotation_degrees)) if turned else 0.0
    flip = bool(rng.random() < limits.flip_probability)
    return Placement(photo_height, photo_width, content_height, content_width, top, left, angle, flip)


def place_label(
    label_hw: NDArray[np.uint8], placement: Placement, height: int, width: int, ignore_label: int
) -> NDArray[np.uint8]:
    """The label map as the crop shows it, uint8 (height, width); ignore_label outside the photo."""
    scale_x = placement.photo_width / placement.content_width
    scale_y = placement.photo_height / placement.content_height
    to_photo = np.diag([scale_x, scale_y]) @ placement.to_content(height, width)
    if placement.flip:
        to_photo[0] *= -1
        to_photo[0, 2] += placement.photo_width
    return np.asarray(
        Image.fromarray(label_hw).transform(
            (width, height),
            Image.Transform.AFFINE,
            tuple(to_photo.ravel()),
            Image.Resampling.NEAREST,
            fillcolor=ignore_label,
        )
    )


def visible_content(
    photo_hwc: NDArray[np.uint8], placement: Placement, height: int, width: int
) -> tuple[Image.Image, tuple[int, int]]:
    """The part of the resized, mirrored photo that the crop shows, and its (left, top) on the content.

    Only that part is resized, which keeps a large photo at a large scale cheap.
    """
    corners = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    corners_x, corners_y = placement.to_content(height, width) @ corners
    # one pixel more on each side for the bilinear kernel of the rotation
    left = min(max(0, math.floor(corners_x.min()) - 1), placement.content_width - 1)
    top = min(max(0, math.floor(corners_y.min()) - 1), placement.content_height - 1)
    right = max(left + 1, min(placement.content_width, math.ceil(corners_x.max()) + 1))
    bottom = max(top + 1, min(placement.content_height, math.ceil(corners_y.max()) + 1))
    scale_x = placement.photo_width / placement.content_width
    scale_y = placement.photo_height / placement.content_height
    start, end = (
        (placement.content_width - right, placement.content_width - left) if placement.flip else (left, right)
    )
    box = (
        start * scale_x,
        top * scale_y,
        min(end * scale_x, placement.photo_width),
        min(bottom * scale_y, placement.photo_height),
    )
    seen = Image.fromarray(photo_hwc).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
    )
    return (seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if placement.flip else seen), (left, top)


def place_photo(
    seen: Image.Image, origin: tuple[int, int], placement: Placement, height: int, width: int
) -> NDArray[np.uint8]:
    """The crop uint8 (height, width, 3): `seen` turned into place, PADDING around it."""
    matrix = placement.to_content(height, width)
    matrix[:, 2] -= origin
    return np.asarray(
        seen.transform(
            (width, height),
            Image.Transform.AFFINE,
            tuple(matrix.ravel()),
            Image.Resampling.BILINEAR,
            fillcolor=PADDING,
        )
    )


def jitter_colour(rng: np.random.Generator, photo: Image.Image, limits: Augmentation) -> Image.Image:
    """Brightness, contrast, saturation and hue, all in one affine map of RGB (they are linear, so they compose)."""
    brightness, contrast, saturation = (
        1 + rng.uniform(-limit, limit) for limit in (limits.brightness, limits.contrast, limits.saturation)
    )
    hue = math.radians(rng.uniform(-limits.hue_degrees, limits.hue_degrees))
    if not any((limits.brightness, limits.contrast, limits.saturation, limits.hue_degrees)):
        return photo
    grey = np.outer(np.ones(3), LUMA)  # RGB -> its grey, three times
    colour = np.eye(3) - grey
    # Rodrigues: colour differences turn around the grey axis
    axis = np.ones(3) / math.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(3) + math.sin(hue) * cross + (1 - math.cos(hue)) * (cross @ cross)
    matrix = brightness * contrast * (grey + saturation * turn @ colour)
    thumbnail = np.asarray(photo.resize((16, 16), Image.Resampling.BOX), np.float64)
    offset = brightness * (1 - contrast) * float(LUMA @ thumbnail.mean(axis=(0, 1)))
    rows = np.column_stack([matrix, np.full(3, offset)])
    return photo.convert("RGB", tuple(rows.ravel()))


def blur(rng: np.random.Generator, photo: Image.Image, limits: Augmentation) -> Image.Image:
    """Gaussian blur of a random sigma, in pixels of the crop."""
    sigma = rng.uniform(0, limits.blur_sigma_max)
    if rng.random() >= limits.blur_probability or sigma == 0:
        return photo
    return photo.filter(ImageFilter.GaussianBlur(sigma))
