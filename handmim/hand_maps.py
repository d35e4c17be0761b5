"""Maps of a crop (heat maps, mask, part orientation fields) in the picture's frame.

A map of h x w cells covers a square of the picture, its `crop_box`: cell (0, 0) is the square's top-left w-th and h-th
part. Networks see right hands only, so that the maps of a left hand come mirrored; here they are turned back, and a map
lies on the picture as it is.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .geometry import affine_points, invert_affine

# Numbers of a resampled map that are in flight at once.
_STRIP_NUMBERS = 1 << 22


def map_names(outputs: Any, large: bool = True) -> list[str]:
    """Which maps there are among a network's outputs.

    Heat maps without their keypoints are something else: HandMIM's are log-probabilities, evidence for its own
    regressor.

    Args:
        outputs: As a network returns them.
        large: Whether `heatmaps` and `pof` count, which are a hundred times larger than the others.
    """
    names = ["mask", "heatmap_keypoints"]
    if large:
        names += ["pof"] if outputs.get("heatmap_keypoints") is None else ["pof", "heatmaps"]
    return [name for name in names if outputs.get(name) is not None]


def restore_maps(outputs: Any, inputs: dict[str, Tensor]) -> Iterator[dict[str, np.ndarray]]:
    """Bring the maps of a network back to the frame of the pictures.

    Args:
        outputs: Of N crops, any of heatmaps (N, 21, h, w), mask (N, h, w), pof (N, 20, 3, h, w) and heatmap_keypoints
            (N, 21, 2) crop pixels, as `HIUDMTLOutput`; see `map_names`.
        inputs: `crop_affine` (N, 2, 3), `mirrored` (N,) and `pixel_values` (N, 3, S, S) of the crops, on the CPU.

    Yields:
        For each crop a dict of numpy float32 arrays that share no memory with those of the other crops: `heatmaps`
        (21, h, w), `mask` (h, w), `pof` (20, 3, h, w) with the direction of the picture, `heatmap_keypoints` (21, 2)
        image pixels, and `crop_box` (4,) xyxy image pixels, the outer edges of the square that the maps cover. Without
        any map an empty dict.
    """
    maps = {name: torch.as_tensor(outputs[name]).detach() for name in map_names(outputs)}
    mirrored = inputs["mirrored"].tolist()
    if not maps:
        yield from ({} for _ in mirrored)
        return
    to_image = invert_affine(inputs["crop_affine"].double())  # as all pixel coordinates of photos
    places = {"crop_box": crop_boxes(to_image, inputs["pixel_values"].shape[-1])}
    if "heatmap_keypoints" in maps:
        places["heatmap_keypoints"] = affine_points(to_image, maps.pop("heatmap_keypoints").cpu().double())
    for row, left in enumerate(mirrored):
        hand = {name: value[row].float().cpu().clone() for name, value in maps.items()}
        if left:
            hand = {name: mirror_map(name, value) for name, value in hand.items()}
        hand |= {name: value[row].float().clone() for name, value in places.items()}
        yield {name: value.numpy() for name, value in hand.items()}


def mirror_map(name: str, value: Tensor) -> Tensor:
    """A map (..., h, w) of the mirrored picture; the field `pof` (..., 3, h, w) points the other way in x."""
    value = value.flip(-1)
    return value * value.new_tensor([-1.0, 1.0, 1.0])[:, None, None] if name == "pof" else value


def crop_boxes(to_image: Tensor, size: int) -> Tensor:
    """Where crops lie in the picture.

    Args:
        to_image: (..., 2, 3) from crop pixels to image pixels, without rotation.
        size: Side of the crops, pixels.

    Returns:
        (..., 4) xyxy of the outer edges, image pixels.
    """
    ends = affine_points(to_image, to_image.new_tensor([[-0.5, -0.5], [size - 0.5, size - 0.5]]))
    return torch.cat([ends.amin(-2), ends.amax(-2)], -1)


def sample_map(values: np.ndarray, box: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A map read between its cells, bilinearly; beyond the centres of the outermost cells their value goes on.

    Args:
        values: (..., h, w).
        box: (4,) xyxy, image pixels, that the map covers.
        x: (W,) image pixels.
        y: (H,) image pixels.

    Returns:
        (..., H, W) float32.
    """
    height, width = values.shape[-2:]
    across = _weights((np.asarray(x) - box[0]) / (box[2] - box[0]) * width - 0.5, width)
    down = _weights((np.asarray(y) - box[1]) / (box[3] - box[1]) * height - 0.5, height)
    return down @ np.asarray(values, np.float32) @ across.T


def _weights(position: np.ndarray, cells: int) -> np.ndarray:
    """(N, cells) float32, the two weights of each position among the cells."""
    position = np.clip(position, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)


def image_mask(mask: np.ndarray, box: np.ndarray, width: int, height: int, threshold: float = 0.5) -> np.ndarray:
    """The mask as a picture.

    Args:
        mask: (h, w) probability that a cell is hand.
        box: (4,) xyxy, image pixels, that the mask covers.
        width: Of the picture, pixels.
        height: Of the picture, pixels.
        threshold: Probability from which a pixel is hand.

    Returns:
        (height, width) bool; False outside the box, of which the network saw nothing.
    """
    picture = np.zeros((height, width), bool)
    left, top, right, bottom = pixels_inside(box, width, height)
    rows = max(1, _STRIP_NUMBERS // max(1, right - left))
    for first in range(top, bottom, rows):
        y = np.arange(first, min(first + rows, bottom))
        picture[y[0] : y[-1] + 1, left:right] = sample_map(mask, box, np.arange(left, right), y) >= threshold
    return picture


def pixels_inside(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Range (left, top, right, bottom), ends excluded, of the picture's pixels whose centres a box (4,) holds."""
    low = np.clip(np.ceil(box[:2]), 0, (width, height)).astype(int)
    high = np.clip(np.floor(box[2:]) + 1, low, (width, height)).astype(int)
    return (*low.tolist(), *high.tolist())
