"""The pixels of two views of an image, from the draws of `handmim/training/views.py`.

Two renderers take the same draws: `render_on_cpu` (OpenCV, uint8, one image after the other, for workers) and
`render_on_device` (batched torch, any device). They differ by rounding to uint8 between the steps and by OpenCV's fixed
point weights: at most a level or two on average, see tests/training/test_views.py. Without OpenCV the first falls back
to the second on the CPU.

Large images are first reduced by 2, 4, ... (box average, as often as halves of octaves round to), so that one pixel of
the view covers 0.7 to 1.4 pixels of what the bilinear warp samples; enlarging views need nothing.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from .augmentation import LUMINANCE
from .views import VIEWS, ViewDraws, colour_matrix, reductions, sampling_matrix

FILL = 127  # of pixels beyond the image: the middle of the range
_SHARPEST = 0.25  # px; a Gaussian narrower than this moves no pixel by a tenth of a level


# ---------------------------------------------------------------------------------------------------------------------
# Worker path


def has_opencv() -> bool:
    """Whether the fast worker path can run here (`pip install opencv-python-headless`).

    Being installed is not enough: mediapipe brings another build of OpenCV, which takes the same folder and does not
    load where the system has no graphics libraries.
    """
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError:
        return False
    except ImportError as error:
        warnings.warn(f"OpenCV does not load, views are made several times as slowly: {error}", stacklevel=2)
        return False
    return True


def render_on_cpu(images: Sequence[np.ndarray], draws: ViewDraws, size: int) -> Tensor:
    """The views of images of any sizes.

    Args:
        images: B arrays (H, W, 3) uint8 RGB.
        draws: Of these images.
        size: Side of a view, pixels.

    Returns:
        (B, 2, 3, size, size) uint8 RGB; the channels are the fastest dimension in memory.
    """
    if not has_opencv():
        return _render_without_opencv(images, draws, size)
    with _one_opencv_thread():
        return _render_with_opencv(images, draws, size)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads: pictures of this size gain nothing, and a `DataLoader` that forks its workers
    while one of them holds a lock would wait for it forever."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _render_with_opencv(images: Sequence[np.ndarray], draws: ViewDraws, size: int) -> Tensor:
    matrices = sampling_matrix(draws.transforms, draws.sizes[:, None], size)
    levels = reductions(matrices)
    matrices[..., :2, :] /= (2.0**levels)[..., None, None]
    matrices[..., 2] += matrices[..., :2].sum(-1) / 2 - 0.5  # from outer edges to pixel centres
    colours, gains = colour_matrix(draws.appearance)
    looks = draws.appearance[..., 4:].tolist()
    out = np.empty((len(images), VIEWS, size, size, 3), np.uint8)
    for number, image in enumerate(images):
        reduced: dict[int, np.ndarray] = {}
        for view in range(VIEWS):
            level = int(levels[number, view])
            if level not in reduced:
                reduced[level] = _reduced(image, level)
            colour = colours[number, view].numpy(), float(gains[number, view])
            sigma, solarise = looks[number][view]
            out[number, view] = _render_view(
                reduced[level], matrices[number, view].numpy(), size, colour, sigma, solarise > 0
            )
    return torch.from_numpy(out).permute(0, 1, 4, 2, 3)


def _reduced(image: np.ndarray, level: int) -> np.ndarray:
    """(H, W, 3) -> (H >> level, W >> level, 4): OpenCV warps four channels twice as fast as three."""
    import cv2

    if level:
        height, width = image.shape[0] >> level, image.shape[1] >> level
        image = cv2.resize(image[: height << level, : width << level], (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)


def _render_view(
    image: np.ndarray,
    matrix: np.ndarray,
    size: int,
    colour: tuple[np.ndarray, float],
    sigma: float,
    solarise: bool,
) -> np.ndarray:
    """(H, W, 4) -> (size, size, 3), uint8; matrix (2, 3) from pixel centres of the view to those of the image."""
    import cv2

    view = cv2.warpAffine(
        image,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(FILL,) * 4,
    )
    red, green, blue = cv2.mean(view)[:3]
    affine = np.empty((3, 4), np.float32)
    affine[:, :3] = colour[0]
    affine[:, 3] = colour[1] * (red * LUMINANCE[0] + green * LUMINANCE[1] + blue * LUMINANCE[2])
    view = cv2.transform(cv2.cvtColor(view, cv2.COLOR_RGBA2RGB), affine)  # four channels would take ten times as long
    if sigma > _SHARPEST:
        taps = cv2.getGaussianKernel(2 * math.ceil(3 * sigma) + 1, sigma, cv2.CV_32F)
        view = cv2.sepFilter2D(view, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    return cv2.LUT(view, _solarised()) if solarise else view


@functools.cache
def _solarised() -> np.ndarray:
    levels = np.arange(256, dtype=np.uint8)
    return np.where(levels < 128, levels, 255 - levels)


def _render_without_opencv(images: Sequence[np.ndarray], draws: ViewDraws, size: int) -> Tensor:
    views = []
    for number, image in enumerate(images):
        one = slice(number, number + 1)
        part = ViewDraws(draws.transforms[one], draws.appearance[one], draws.sizes[one])
        levels = render_on_device(torch.from_numpy(np.ascontiguousarray(image))[None], part, size)
        views.append(levels.add_(1).mul_(127.5).round_().to(torch.uint8))
    return torch.cat(views)


# ---------------------------------------------------------------------------------------------------------------------
# Device path


@torch.no_grad()
def render_on_device(
    images: Tensor, draws: ViewDraws, size: int, dtype: torch.dtype = torch.float32, chunk: int = 128
) -> Tensor:
    """The views of a batch of images, on the device where those are.

    Args:
        images: (B, H, W, 3) uint8 RGB. Images smaller than H x W lie at the top left, the rest is `FILL`.
        draws: Of these images, on the CPU: reading them back from a GPU would wait for all its work.
        size: Side of a view, pixels.
        dtype: Of the result.
        chunk: Views that are rendered at once; each takes about 4 MB at 224 px.

    Returns:
        (B, 2, 3, size, size) in [-1, 1], x / 127.5 - 1.
    """
    batch = len(images)
    out = torch.empty(batch, VIEWS, 3, size, size, dtype=dtype, device=images.device)
    transforms, appearance, sizes = (part.cpu() for part in (draws.transforms, draws.appearance, draws.sizes))
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        source = images[part].permute(0, 3, 1, 2).to(torch.float32).sub_(FILL)
        for view in range(VIEWS):
            matrix = sampling_matrix(transforms[part, view], sizes[part], size)
            picture = _recolour(_warp(source, matrix, size).add_(FILL), appearance[part, view])
            picture = _solarise(_blur(picture, appearance[part, view, 4]), appearance[part, view, 5])
            out[part, view] = picture.div_(127.5).sub_(1)
    return out


def _warp(source: Tensor, matrix: Tensor, size: int) -> Tensor:
    """source (n, 3, H, W), zero outside; matrix (n, 2, 3) on the CPU -> (n, 3, size, size)."""
    levels = reductions(matrix)
    out = source.new_empty(len(source), 3, size, size)
    for level in levels.unique().tolist():
        chosen = torch.nonzero(levels == level).squeeze(1)
        everything = len(chosen) == len(source)
        part = source if everything else source[chosen.to(source.device, non_blocking=True)]
        if level:
            part = F.avg_pool2d(part, 2**level)
        # From the view's [-1, 1] to that of the (reduced, padded) picture.
        extent = torch.tensor([part.shape[3], part.shape[2]], dtype=torch.float64) * 2**level
        linear = matrix[chosen, :, :2] * size
        shift = 2 * matrix[chosen, :, 2] + linear.sum(-1)
        theta = torch.cat([linear, shift[..., None]], -1) / extent[:, None]
        theta[..., 2] -= 1
        theta = theta.float().to(source.device, non_blocking=True)
        grid = F.affine_grid(theta, [len(part), 3, size, size], align_corners=False)
        view = F.grid_sample(part, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        if everything:
            return view
        out[chosen.to(source.device, non_blocking=True)] = view
    return out


def _recolour(picture: Tensor, appearance: Tensor) -> Tensor:
    """(n, 3, S, S) in [0, 255]; appearance (n, 6) on the CPU."""
    matrix, gain = (part.to(picture.device, non_blocking=True) for part in colour_matrix(appearance))
    luma = picture.mean((2, 3)) @ constant(tuple(LUMINANCE.tolist()), picture.device, picture.dtype)
    offset = (gain * luma)[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offset, matrix, picture.flatten(2)).clamp_(0, 255).view_as(picture)


def _blur(picture: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of the pictures (n, 3, S, S) whose sigma (n,), on the CPU, is more than nothing. In place.

    As a product with a banded matrix from either side: matrix units are idle here, and each picture has its own sigma.
    """
    chosen = torch.nonzero(sigma > _SHARPEST).squeeze(1)
    if len(chosen):
        band = blur_matrix(sigma[chosen].to(picture.device, non_blocking=True), picture.shape[-1])[:, None]
        chosen = chosen.to(picture.device, non_blocking=True)
        picture[chosen] = band @ picture[chosen] @ band.transpose(-1, -2)
    return picture


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(n,) standard deviations, px -> (n, size, size) blurring a column; cut at 3 sigma, reflected at the edges."""
    distance, sigma = torch.arange(2 * size - 1, device=sigma.device), sigma[:, None]
    weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= torch.ceil(3 * sigma))  # (n, 2 size - 1)
    row, column = distance[:size, None], distance[None, :size]
    band = weight[:, (row - column).abs()]
    # What lies beyond an edge is the picture mirrored at its outermost pixels, which count once.
    band[..., 1:] += weight[:, (row + column)[:, 1:]]
    band[..., :-1] += weight[:, (2 * (size - 1) - row - column)[:, :-1]]
    return band / band.sum(-1, keepdim=True)


def _solarise(picture: Tensor, flag: Tensor) -> Tensor:
    """Invert what is brighter than half, in the pictures (n, 3, S, S) whose flag (n,), on the CPU, is set. In place."""
    chosen = torch.nonzero(flag).squeeze(1)
    if len(chosen):
        chosen = chosen.to(picture.device, non_blocking=True)
        part = picture[chosen]
        picture[chosen] = torch.minimum(part, 255 - part)
    return picture


def finish_on_device(batch: dict[str, Any], device: torch.device | str, size: int) -> dict[str, Any]:
    """What a batch of `ViewPairs(render="device")` becomes before the model sees it.

    Args:
        batch: On the CPU (pinned memory lets the copy overlap); `images`, `sizes`, `transforms`, `appearance`, others.
        device: Where to render.
        size: Side of a view, pixels.

    Returns:
        `pixel_values` (B, 2, 3, size, size) float32 in [-1, 1], `transforms` and the others, on the device.
    """
    draws = ViewDraws(batch["transforms"], batch["appearance"], batch["sizes"])
    images = batch["images"].to(device, non_blocking=True)
    rest = {name: value for name, value in batch.items() if name not in ("images", "sizes", "appearance")}
    moved = {name: value.to(device, non_blocking=True) for name, value in rest.items()}
    return {"pixel_values": render_on_device(images, draws, size), **moved}
