"""Training crops of any data set: one right hand a sample, with labels that follow every warp exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import HandMIMError
from ...geometry import (
    affine_points,
    compose_affine,
    crop_affine,
    crop_intrinsics,
    crop_rotation,
    mirror_matrix,
)
from ...image_processing_handmim import MAX_BOX, check_box_touches, resolve_intrinsics, square_crop
from ...images import LoadedImage, load_image, load_reduced
from ..augmentation import LUMINANCE, Augmentation, random_generator, to_tensor, warp
from .boxes import box_side, sample_box, whole_picture
from .items import HandItems, Item
from .new_backgrounds import NewBackgrounds, lay_over
from .sample import LABEL_SHAPES, DataError, HandReader, HandSample

TRAINING_LABELS = (*LABEL_SHAPES, "mask")
FILL = (127.5, 127.5, 127.5)  # as the image processor: 0 once normalised


class HandCrops(HandItems):
    """Square crops of a reader's samples; left hands are mirrored.

    Without augmentation a crop is that of `HandMIMImageProcessor`. With it, the picture is resampled once more freely:
    scaled, moved and turned, by one warp; its colours change by one matrix. All of it depends on (seed, epoch, index)
    alone.

    Args:
        reader: The data set.
        size: Side S of the crops, pixels.
        augmentation: How far crops vary; None keeps them as they are.
        seed: Of the augmentation.
        box_scale: Side of the crop over the longer side of the box.
        labels: Which labels to yield (of `TRAINING_LABELS`); None takes all but the mask, which costs a file and a
            warp and is for models with a mask loss.
        negatives: Share of samples of known side that are shown as a left hand, which teaches the score: `hand` is 0.0,
            and there is no other label.
        sides: Whether samples teach the score at all. False for pictures that show most hands from the palm, or most
            from the back: which way the thumb points is enough to tell their mirror images, and the network then takes
            hands seen from the other side for those of the other side of the body.
        new_backgrounds: Share of the samples whose foreground is known that are shown before another background.
        background_photos: Folder of photos without hands, shown behind half of these; None: drawn backgrounds only.

    Items have, beside the labels, `hand`: 1.0 if the sample's side is known (the crop then shows a right hand).
    """

    def __init__(
        self,
        reader: HandReader,
        size: int,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        box_scale: float = 1.2,
        labels: Sequence[str] | None = None,
        negatives: float = 0.0,
        sides: bool = True,
        new_backgrounds: float = 0.0,
        background_photos: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= negatives <= 1 or (negatives and not sides):
            raise ValueError(f"negatives must be a share in [0, 1], and 0 without sides, got {negatives}, {sides}")
        if isinstance(box_scale, bool) or not isinstance(box_scale, int | float) or not 0 < box_scale < math.inf:
            raise ValueError(f"box_scale must be a positive number, got {box_scale!r}")
        unknown = set(labels or ()) - set(TRAINING_LABELS)
        if unknown:
            raise ValueError(f"labels must be of {', '.join(TRAINING_LABELS)}, got {', '.join(sorted(unknown))}")
        self.reader, self.size, self.augmentation, self.seed = reader, size, augmentation, seed
        self.box_scale, self.negatives, self.sides = box_scale, negatives, sides
        self.backgrounds = None
        if new_backgrounds:
            if augmentation is None:
                raise ValueError("new_backgrounds are a part of augmentation; leave them out, or augment")
            if not reader.has_foregrounds:
                raise ValueError(f"new_backgrounds need foregrounds; {reader.name} in {reader.root} has none")
            self.backgrounds = NewBackgrounds(new_backgrounds, size, seed, background_photos)
        elif background_photos is not None:
            raise ValueError("background_photos are for new_backgrounds, a share of the samples, which is 0")
        self.labels = tuple(LABEL_SHAPES if labels is None else labels)

    def __len__(self) -> int:
        return len(self.reader)

    def visit(self, indices: Sequence[int], epochs: Sequence[int]) -> list[Item]:
        return [self.crop(self.reader[index], index, epoch) for index, epoch in zip(indices, epochs, strict=True)]

    def crop(self, sample: HandSample, index: int, epoch: int) -> Item:
        """The item of one sample.

        Raises:
            DataError: Its picture cannot be read, its camera or box makes no sense, or the box lies outside of the
                picture; naming the sample.
        """
        try:
            return self._crop(sample, index, epoch)
        except (HandMIMError, OSError) as error:
            raise DataError(f"sample {sample.id} of {self.reader.name}: {error}") from error

    def _crop(self, sample: HandSample, index: int, epoch: int) -> Item:
        generator = random_generator(self.seed, epoch, index)
        box, turn = sample_box(sample), None
        if self.augmentation is None:
            image = load_image(sample.image)
        else:
            turn = self.augmentation.draw_turn(generator, self.size)
            image = read_for_crop(sample, box, self.size / self.box_scale * np.hypot(*turn[:, 0]))
        camera = resolve_intrinsics(image, sample.intrinsics)[0]
        if box is None:
            box = whole_picture(image.size, self.box_scale)
        elif box_side(box) > MAX_BOX * max(image.size):  # the filter that shrinks it grows with it
            raise DataError(
                f"box must be at most {MAX_BOX} times as large as its picture, got {np.round(box).tolist()}"
            )
        else:  # labels in another resolution than the picture would be learned from grey crops
            check_box_touches(box, *image.size)
        negative = self.negatives > 0 and sample.handedness is not None and generator.random() < self.negatives
        mirror = (sample.handedness == "left") != negative
        place = Placement(box, camera, self.size, mirror, self.box_scale, turn)
        labels = {"hand": torch.tensor(0.0)} if negative else self._labels(sample, image, place)
        behind = self._behind(sample, index, epoch)
        return {
            "sample_id": sample.id,
            "pixel_values": self._pixels(sample, image, place.affine.numpy(), generator, behind),
            "intrinsics": place.intrinsics.float(),
            "labels": labels,
        }

    def _labels(self, sample: HandSample, image: LoadedImage, place: Placement) -> dict[str, Tensor]:
        labels = place.labels({name: value for name, value in sample.labels.items() if name in self.labels})
        if sample.load_mask is not None and "mask" in self.labels:
            mask = read_mask_of(sample, image, "mask")
            labels["mask"] = torch.from_numpy(warp_mask(mask, place.affine.numpy(), self.size))
        labels["hand"] = torch.tensor(1.0 if self.sides and sample.handedness is not None else math.nan)
        return labels

    def _pixels(
        self,
        sample: HandSample,
        image: LoadedImage,
        affine: np.ndarray,
        generator: np.random.Generator,
        behind: np.ndarray | None,
    ) -> Tensor:
        if self.augmentation is None:
            return torch.from_numpy(square_crop(image.pixels, affine, self.size, FILL)).div_(127.5).sub_(1)
        crop = warp(image.pixels, of_reduced(affine, image.reduction), self.size)
        if behind is not None:
            foreground = read_mask_of(sample, image, "foreground").astype(np.uint8) * 255
            masks = (warp(mask, affine, self.size, fill=0) for mask in (foreground, np.full_like(foreground, 255)))
            crop = lay_over(behind, crop, *masks)
        crop = self.augmentation.take_far(generator, crop)
        mean_grey = float(crop[::4, ::4].mean((0, 1)) @ LUMINANCE)
        return to_tensor(crop, self.augmentation.draw_colour(generator, mean_grey))

    def _behind(self, sample: HandSample, index: int, epoch: int) -> np.ndarray | None:
        """(S, S, 3) uint8, the background that the sample is shown before in this epoch; None: its own."""
        if self.backgrounds is None or sample.load_foreground is None:
            return None
        return self.backgrounds.draw(epoch, index)


class Placement:
    """Where a crop lies in its picture, and what that does to labels and camera. float64.

    Args:
        box: (4,) xyxy, image pixels.
        camera: (3, 3) of the image, pixels.
        size: Side of the crop, pixels.
        mirror: Whether the crop is flipped, as for left hands.
        box_scale: Side of the plain crop over the longer side of the box.
        turn: (2, 3) similarity of crop pixels that follows the plain crop, or None. A turned picture is one of a
            pinhole camera only if its pixels are square: it is then stretched to square pixels before, by the root of
            fx / fy (within a percent of 1 for real cameras).

    Attributes:
        affine: (2, 3), image -> crop pixels.
        intrinsics: (3, 3) of the crop.
        rotation: (3, 3) orthogonal: camera frame of the image -> of the crop; a mirror has determinant -1.
    """

    def __init__(
        self, box: np.ndarray, camera: np.ndarray, size: int, mirror: bool, box_scale: float, turn: np.ndarray | None
    ) -> None:
        self.mirror = mirror
        corners, matrix = (torch.from_numpy(np.asarray(value, np.float64)) for value in (box, camera))
        if turn is None:
            similarity = self.affine = crop_affine(corners, size, mirror, box_scale)
        else:
            focal = matrix.diagonal()[:2]
            stretch = torch.diag(focal.prod().sqrt() / focal)
            corners = (corners.view(2, 2) @ stretch).flatten()
            matrix = torch.cat([stretch @ matrix[:2], matrix[2:]])
            similarity = compose_affine(torch.from_numpy(turn), crop_affine(corners, size, mirror, box_scale))
            self.affine = torch.cat([similarity[:, :2] @ stretch, similarity[:, 2:]], 1)
        self.intrinsics = crop_intrinsics(similarity, matrix)
        self.rotation = crop_rotation(similarity)

    def labels(self, labels: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Labels in the frame of the image -> of the crop, float32; parameters of a left hand become a right one's."""
        results = {}
        for name, array in labels.items():
            value = torch.from_numpy(np.asarray(array)).double()
            if name == "keypoints_2d":
                value = affine_points(self.affine, value)
            elif name in ("joints", "vertices"):
                value = value @ self.rotation.T
            elif name == "global_orient":
                # a left hand is the mirrored right one: M in the hand model's frame beside the crop's own mirror
                value = self.rotation @ (value * value.new_tensor([-1.0, 1.0, 1.0]) if self.mirror else value)
            elif name == "hand_pose" and self.mirror:
                value = mirror_matrix(value)
            results[name] = value.float()
        return results


def read_for_crop(sample: HandSample, box: np.ndarray | None, side: float) -> LoadedImage:
    """The sample's picture, decoded no finer than a crop needs whose box is `side` pixels large."""
    if box is None:
        return load_image(sample.image)
    extent = float(max(box[2] - box[0], box[3] - box[1]))
    reduction = 2 ** min(3, max(0, math.floor(math.log2(extent / side))))
    return load_image(sample.image) if reduction == 1 else load_reduced(sample.image, reduction)


def of_reduced(affine: np.ndarray, reduction: int) -> np.ndarray:
    """An affine (2, 3) of a picture's pixels as one of the pixels of that picture, decoded smaller."""
    # pixel x of the reduced picture is centred on reduction * (x + 0.5) - 0.5
    shift = affine[:, 2] + affine[:, :2].sum(1) * (reduction - 1) / 2
    return np.concatenate([affine[:, :2] * reduction, shift[:, None]], 1)


def read_mask_of(sample: HandSample, image: LoadedImage, kind: Literal["mask", "foreground"]) -> np.ndarray:
    """(H, W) bool, a mask of a sample's picture.

    Raises:
        DataError: The file cannot be read, or is of another size than the picture.
    """
    mask = (sample.load_mask if kind == "mask" else sample.load_foreground)()
    width, height = image.size
    if mask.shape != (height, width):
        raise DataError(f"its {kind} is {mask.shape[1]} x {mask.shape[0]} px, but the picture {width} x {height}")
    return mask


def warp_mask(mask: np.ndarray, affine: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool -> (S, S) bool by the warp of the picture; crop pixels more than half covered."""
    return warp(mask.astype(np.uint8) * 255, affine, size, fill=0) > 127
