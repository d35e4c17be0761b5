"""Pictures with any number of hands, for the detector: rendered hands and labelled photos, one or several together.

A scene is a window on a grid of 1, 4 or 9 tiles: many tiles are many small hands, one tile is a large hand or two.
Each tile is rendered, or is a photo under a random turn; parts of the border may be grey, as the image processor fills
a picture that is not square. The window lies anywhere and has any size: a network learns where the edges of a fixed
grid lie, and finds small hands between them and nowhere else.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DataError, HandMIMError
from ...hand_boxes import JOINT_MARGIN
from ...images import load_image
from ...synthesis import SyntheticBatch, generate
from ...synthesis.variety import Variety, find_variety
from ..augmentation import LUMINANCE, Augmentation, random_generator, to_tensor, warp
from .boxes import keypoint_box, sample_box
from .items import HandItems, Item
from .rendering_options import check_series
from .sample import HandSample

GRIDS = (1, 2, 3)  # tiles a side
_SLOTS = 1 + 4 + 9  # tiles of all grids: each has rendered pictures of its own
MAX_HANDS = 24  # of a scene; labels are padded to as many
REFRAMED = (0.6, 1.6)  # how much larger a scene's window shows things
BARRED = 0.5  # share of scenes with grey bars
NARROWEST = 0.5  # shorter over longer side of what the bars leave
# A hand counts if so much of its box is in the picture and, rendered, so much of the box shows it; one of which less
# than a trace is in the picture is none.
COUNTED_PART, COUNTED_SHOWN, TRACE = 0.5, 0.2, 0.1
SMALLEST = 8.0  # px, longer side of a hand that counts
# Of photo tiles: side over the photo's longer side; shift, in sides; shares of largest turns, degrees.
ZOOM, SHIFT, TURNS = (0.6, 1.6), 0.2, {0.0: 0.5, 45.0: 0.3, 180.0: 0.2}
_GREY = 128


class Hands(NamedTuple):
    """Labels of N hands: boxes (N, 4) float64 xyxy pixels; right (N,), 1 right, 0 left, NaN unknown; counted (N,)."""

    boxes: np.ndarray
    right: np.ndarray
    counted: np.ndarray


class Tile(NamedTuple):
    """A square picture (3, T, T) float32 in [-1, 1] and its hands."""

    pixels: Tensor
    hands: Hands


@dataclass(frozen=True)
class Photo:
    """A photo with the hands in it; none for one that shows no hands."""

    path: Path
    samples: tuple[HandSample, ...] = ()


def photos_of(samples: Iterable[HandSample]) -> list[Photo]:
    """The pictures of a data set, each with all of its hands. A hand that is not labelled would be taught as none.

    Raises:
        DataError: A hand without box, two keypoints and mask.
    """
    hands: dict[Path, list[HandSample]] = defaultdict(list)
    for sample in samples:
        if sample_box(sample) is None:
            raise DataError(
                f"sample {sample.id} has no box, and no two keypoints apart: a detector cannot learn from it"
            )
        hands[sample.image].append(sample)
    return [Photo(path, tuple(found)) for path, found in hands.items()]


class HandScenes(HandItems):
    """Scenes by index, no two alike: scene ``i`` of epoch ``e`` is a function of (seed, e, i).

    Args:
        length: Scenes of an epoch.
        seed: Of everything.
        size: Side of a scene, pixels; a multiple of 48, so that tiles have whole JPEG blocks.
        photos: Collections of photos, of labelled ones or of such without hands; none of them empty.
        photo_weights: Relative share of each collection among the photos; None: the numbers of photos.
        photo_share: Share of the tiles that are photos, if there are any.
        grids: Relative shares of scenes of 1, 4 and 9 tiles.
        variety: Of the rendered pictures, see `synthesis.variety`.
        background_photos: (N, H, W, 3) uint8 behind half of the rendered hands, see `synthesis.photos`.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        size: int,
        photos: Sequence[Sequence[Photo]] = (),
        photo_weights: Sequence[float] | None = None,
        photo_share: float = 0.5,
        grids: Sequence[float] = (0.6, 0.25, 0.15),
        variety: Variety | str = "scene",
        background_photos: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_series(length, seed, size, first=0)
        if size % 48:
            raise ValueError(f"size must be a multiple of 48, got {size}")
        if len(grids) != len(GRIDS) or min(grids) < 0 or sum(grids) <= 0:
            raise ValueError(f"grids must be shares of scenes of 1, 4 and 9 tiles, got {grids}")
        if not 0 <= photo_share <= 1:
            raise ValueError(f"photo_share must be in [0, 1], got {photo_share}")
        weights = [len(collection) for collection in photos] if photo_weights is None else photo_weights
        if len(weights) != len(photos) or not all(map(len, photos)) or not all(0 < w < math.inf for w in weights):
            raise ValueError(f"photos must be collections with a positive weight each, got the weights {weights}")
        self.length, self.seed, self.size, self.photos = length, seed, size, list(photos)
        self.photo_share = photo_share if photos else 0.0
        self.photo_weights = np.cumsum(weights)
        self.grids = np.cumsum(grids)
        self.variety, self.background_photos = replace(find_variety(variety), borders=False), background_photos
        self.colours = Augmentation()

    def __len__(self) -> int:
        return self.length

    @torch.no_grad()
    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        plans = [_Plan(self, index, epoch) for index, epoch in zip(indices, epochs, strict=True)]
        rendered: dict[int, dict[int, Tile]] = {}
        for grid in GRIDS:
            wanted = [number for plan in plans if plan.grid == grid for number in plan.rendered]
            if wanted:
                pictures = generate(
                    self.seed,
                    torch.tensor(wanted),
                    size=self.size // grid,
                    variety=self.variety,
                    background_photos=self.background_photos,
                )
                rendered[grid] = dict(zip(wanted, rendered_tiles(pictures), strict=True))
        return [self._scene(plan, rendered.get(plan.grid, {})) for plan in plans]

    def _scene(self, plan: _Plan, rendered: dict[int, Tile]) -> Item:
        """Put the tiles together, and bars around them."""
        side = self.size // plan.grid
        scene = torch.empty(3, self.size, self.size)
        parts = []
        for place, tile in enumerate(plan.tiles(rendered, side)):
            row, column = divmod(place, plan.grid)
            y, x = row * side, column * side
            scene[:, y : y + side, x : x + side] = tile.pixels
            parts.append(tile.hands._replace(boxes=tile.hands.boxes + [x, y, x, y]))
        hands = Hands(*(np.concatenate([getattr(part, name) for part in parts]) for name in Hands._fields))
        scene, hands = reframed(scene, hands, plan.random)
        hands = within(hands, plan.bar(scene))
        return {"sample_id": plan.name, "pixel_values": scene, "labels": padded(hands)}


class _Plan:
    """What one scene is made of; every number is drawn from (seed, epoch, index)."""

    def __init__(self, scenes: HandScenes, index: int, epoch: int) -> None:
        self.scenes, self.name = scenes, f"scene {scenes.seed}/{epoch}/{index}"
        self.random = random_generator(scenes.seed, epoch, index, stream=2)
        self.grid = GRIDS[_pick(scenes.grids, self.random)]
        first = (epoch * len(scenes) + index) * _SLOTS + sum(grid**2 for grid in GRIDS if grid < self.grid)
        from_photos = self.random.random(self.grid**2) < scenes.photo_share
        self.slots = [None if photo else first + slot for slot, photo in enumerate(from_photos)]

    @property
    def rendered(self) -> list[int]:
        """Indices of the pictures to be rendered."""
        return [number for number in self.slots if number is not None]

    def tiles(self, rendered: dict[int, Tile], side: int) -> Iterable[Tile]:
        """All tiles, by rows; half of them mirrored."""
        for number in self.slots:
            mirror = self.random.random() < 0.5
            if number is None:
                collection = self.scenes.photos[_pick(self.scenes.photo_weights, self.random)]
                photo = collection[self.random.integers(len(collection))]
                yield photo_tile(photo, side, mirror, self.scenes.colours, self.random)
            else:
                yield mirrored(rendered[number]) if mirror else rendered[number]

    def bar(self, scene: Tensor) -> np.ndarray:
        """Paint bars into a scene (3, S, S); (4,) xyxy of what they leave."""
        size = scene.shape[-1]
        upright = self.random.random() < 0.5
        depth = round(self.random.uniform(0, (1 - NARROWEST) / 2) * size) if self.random.random() < BARRED else 0
        window = np.array([-0.5, -0.5, size - 0.5, size - 0.5])
        if depth:
            view = scene.transpose(1, 2) if upright else scene
            view[:, :depth] = view[:, size - depth :] = _GREY / 127.5 - 1
            window += np.array([depth, 0, -depth, 0] if upright else [0, depth, 0, -depth])
        return window


def _pick(shares: np.ndarray, random: np.random.Generator) -> int:
    """A row, with a probability proportional to its share; `shares` are cumulated."""
    return int(np.searchsorted(shares[:-1], random.random() * shares[-1], side="right"))


def rendered_tiles(batch: SyntheticBatch) -> list[Tile]:
    """What the generator draws, as tiles."""
    side = batch.images.shape[1]
    pixels = batch.images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    boxes = batch.hands.boxes.double().numpy()
    pad = JOINT_MARGIN * (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)[:, None]
    boxes = np.concatenate([boxes[:, :2] - pad, boxes[:, 2:] + pad], 1)
    owner = batch.hands.picture.numpy()
    shown = batch.hands.shown.numpy() >= COUNTED_SHOWN
    right = 1.0 - batch.hands.left.double().numpy()
    window = np.array([-0.5, -0.5, side - 0.5, side - 0.5])
    tiles = []
    for row, picture in enumerate(pixels):
        own = owner == row
        tiles.append(Tile(picture, within(Hands(boxes[own], right[own], shown[own]), window)))
    return tiles


def photo_tile(photo: Photo, side: int, mirror: bool, colours: Augmentation, random: np.random.Generator) -> Tile:
    """A photo, moved, scaled, perhaps turned and mirrored, in other colours.

    Raises:
        DataError: The photo cannot be read; naming it.
    """
    try:
        pixels = load_image(photo.path).pixels
    except (HandMIMError, OSError) as error:
        raise DataError(f"{photo.path}: {error}") from error
    height, width = pixels.shape[:2]
    zoom = side / (max(height, width) * math.exp(random.uniform(*np.log(ZOOM))))
    shift = random.uniform(-SHIFT, SHIFT, 2) * side
    angle = math.radians(random.choice(list(TURNS), p=list(TURNS.values())) * random.uniform(-1, 1))
    sine, cosine = zoom * math.sin(angle), zoom * math.cos(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    offset = (side - 1) / 2 + shift - linear @ [(width - 1) / 2, (height - 1) / 2]
    affine = np.concatenate([linear, offset[:, None]], 1)
    crop = warp(pixels, affine, side)
    colour = colours.draw_colour(random, float(crop[::4, ::4].mean((0, 1)) @ LUMINANCE))
    window = np.array([-0.5, -0.5, side - 0.5, side - 0.5])
    return Tile(to_tensor(crop, colour), within(_moved(photo.samples, affine, mirror), window))


def _moved(samples: Sequence[HandSample], affine: np.ndarray, mirror: bool) -> Hands:
    """Labels of a photo's hands after an affine map (2, 3) of its pixels."""
    boxes, right = [], []
    for sample in samples:
        points, margin = sample.labels.get("keypoints_2d"), JOINT_MARGIN
        if points is None or np.isnan(keypoint_box(points)).any():
            x0, y0, x1, y1 = sample_box(sample)
            points, margin = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), 0.0
        boxes.append(keypoint_box(points @ affine[:, :2].T + affine[:, 2], margin))
        is_right = {"right": 1.0, "left": 0.0, None: math.nan}[sample.handedness]
        right.append(1 - is_right if mirror else is_right)
    return Hands(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(right, np.float64), np.ones(len(boxes), dtype=bool)
    )


def reframed(scene: Tensor, hands: Hands, random: np.random.Generator) -> tuple[Tensor, Hands]:
    """A scene (3, S, S) enlarged and cut, or made smaller on a grey ground, at a random place; and its hands there."""
    size = scene.shape[-1]
    factor = math.exp(random.uniform(*np.log(REFRAMED)))
    if factor >= 1:
        side = round(size / factor)
        x, y = random.integers(0, size - side + 1, 2).tolist()
        framed = _resized(scene[:, y : y + side, x : x + side], size)
        scale, offset = size / side, np.array([-x, -y]) * size / side
    else:
        side = round(size * factor)
        x, y = random.integers(0, size - side + 1, 2).tolist()
        framed = torch.full_like(scene, _GREY / 127.5 - 1)
        framed[:, y : y + side, x : x + side] = _resized(scene, side)
        scale, offset = side / size, np.array([x, y])
    boxes = (hands.boxes + 0.5) * scale + np.tile(offset, 2) - 0.5
    return framed, within(hands._replace(boxes=boxes), np.array([-0.5, -0.5, size - 0.5, size - 0.5]))


def _resized(picture: Tensor, side: int) -> Tensor:
    return F.interpolate(picture[None], (side, side), mode="bilinear", antialias=True)[0].clamp(-1, 1)


def mirrored(tile: Tile) -> Tile:
    """Left and right exchanged, in the picture and of the hands."""
    boxes = tile.pixels.shape[-1] - 1 - tile.hands.boxes[:, [2, 1, 0, 3]]
    boxes[:, [1, 3]] = tile.hands.boxes[:, [1, 3]]
    return Tile(tile.pixels.flip(2), tile.hands._replace(boxes=boxes, right=1 - tile.hands.right))


def within(hands: Hands, window: np.ndarray) -> Hands:
    """Hands as a window (4,) shows them: boxes cut at its border, hands beyond it left out, and those of which too
    little remains not counted."""
    area = (hands.boxes[:, 2:] - hands.boxes[:, :2]).prod(1)
    boxes = np.concatenate([np.maximum(hands.boxes[:, :2], window[:2]), np.minimum(hands.boxes[:, 2:], window[2:])], 1)
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    part = sides.prod(1) / np.maximum(area, 1e-6)
    counted = hands.counted & (part >= COUNTED_PART) & (sides.max(1, initial=0) >= SMALLEST)
    there = part > TRACE
    return Hands(boxes[there], hands.right[there], counted[there])


def padded(hands: Hands) -> dict[str, Tensor]:
    """The labels of `HandDetectorForObjectDetection`, padded to `MAX_HANDS`; the hands beyond are the smallest."""
    order = np.argsort(-(hands.boxes[:, 2:] - hands.boxes[:, :2]).prod(1), kind="stable")[:MAX_HANDS]
    boxes, right = torch.full((MAX_HANDS, 4), torch.nan), torch.full((MAX_HANDS,), torch.nan)
    counted = torch.zeros(MAX_HANDS, dtype=torch.bool)
    boxes[: len(order)] = torch.from_numpy(hands.boxes[order]).float()
    right[: len(order)] = torch.from_numpy(hands.right[order]).float()
    counted[: len(order)] = torch.from_numpy(hands.counted[order])
    return {"boxes": boxes, "right": right, "counted": counted}


def collate_scenes(items: Sequence[Item]) -> dict[str, Any]:
    """Stack scenes into what the detector's ``forward`` takes, and `sample_ids`."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": {name: torch.stack([item["labels"][name] for item in items]) for name in items[0]["labels"]},
        "sample_ids": [item["sample_id"] for item in items],
    }
