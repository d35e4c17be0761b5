"""What lens, sensor and compression do to a picture. Every step works on the samples that draw it, and only those."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from .random import SampleRandom
from .variety import FAULTS

GREY_SHARE = 0.12
# Crops that reach beyond the picture's border: their share, how many of their sides, how far (share of the side).
BEYOND_SHARE, BEYOND_SIDES, BEYOND_DEPTH = 0.4, 0.6, 0.22
BEYOND_LEVEL = 127  # the image processor fills with the middle of the range
# Sides in pixels that pictures from afar had before they were enlarged.
FAR_SIDES = (24, 32, 40, 48, 64)
_NOISE_LENGTH = 1 << 20

# ITU-T T.81, annex K: the example quantisation table of luminance at quality 50.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@functools.lru_cache(maxsize=4)
def _noise_bank(device: str) -> Tensor:
    """(_NOISE_LENGTH,) Gaussian noise, drawn once: hashing a number per pixel would cost more than all the rest."""
    index = torch.arange(1024, device=device)
    return SampleRandom(7, index).normal((_NOISE_LENGTH // 1024,)).flatten()


def _chosen(flag: Tensor) -> Tensor:
    return torch.nonzero(flag).squeeze(1)


def soften(picture: Tensor, weight: Tensor, axis: int, step: int = 1) -> Tensor:
    """Three-tap blur (w, 1 - 2 w, w) along an axis, taps `step` px apart. picture (B, C, H, W), in place; (B,)."""
    length = picture.shape[axis] - 2 * step
    change = picture.narrow(axis, 0, length) + picture.narrow(axis, 2 * step, length)
    middle = picture.narrow(axis, step, length)
    change.sub_(middle, alpha=2)
    middle.addcmul_(change, weight[:, None, None, None])
    return picture


def blur(random: SampleRandom, picture: Tensor) -> Tensor:
    """Defocus, slight in most pictures, and motion blur along one axis in one of ten."""
    amount = random.uniform((), 0.03, 0.2)
    heavy, motion = _chosen(random.bernoulli(0.22)), _chosen(random.bernoulli(0.1))
    for axis in (2, 3):
        soften(picture, amount, axis)
    if len(heavy):
        strong = random.fork("heavy").select(heavy).uniform((), 0.1, 0.33)
        part = picture[heavy]
        for axis, step in ((2, 1), (3, 1), (2, 2), (3, 2)):
            soften(part, strong, axis, step)
        picture[heavy] = part
    if len(motion):
        draw = random.fork("motion").select(motion)
        flat, part = draw.uniform((), 0.1, 0.33), picture[motion]
        along = draw.bernoulli(0.5)
        for step in (1, 2, 3):
            soften(part, flat * along, 3, step)
            soften(part, flat * ~along, 2, step)
        picture[motion] = part
    return picture


def shrink(random: SampleRandom, picture: Tensor) -> Tensor:
    """Low resolution: one in eight pictures was smaller by 1.5 to 4 and is enlarged again."""
    kind = random.choice((0.86, 0.06, 0.05, 0.03))
    size = picture.shape[-1]
    for k, factor in enumerate((1.5, 2.3, 3.6)):
        chosen = _chosen(kind == k + 1)
        if len(chosen):
            small = F.interpolate(picture[chosen], (round(size / factor),) * 2, mode="bilinear", antialias=True)
            picture[chosen] = F.interpolate(small, (size, size), mode="bilinear")
    return picture


def develop(random: SampleRandom, picture: Tensor) -> Tensor:
    """Linear light to sRGB: shoulder, gamma, colour cast, contrast, grey photographs. In place.

    Args:
        random: Its draws.
        picture: (B, 3, S, S) linear, 0 and up.

    Returns:
        (B, 3, S, S) sRGB, about [0, 255].
    """
    gain = random.normal((3,), 1.0, 0.07) * random.log_uniform((1,), 0.75, 1.3)
    # The shoulder x / (1 + 0.15 x) and the gamma together: 1 / sqrt(1 / x + 0.15), of x = gain * picture.
    picture.clamp_(min=1e-12).reciprocal_().mul_(gain.clamp(min=0.1).reciprocal()[..., None, None]).add_(0.15).rsqrt_()
    contrast, lift = random.uniform((), 0.75, 1.2), random.normal((), 0.0, 0.04)
    saturation = torch.where(random.bernoulli(GREY_SHARE), torch.zeros_like(lift), random.uniform((), 0.55, 1.3))
    luma = _luma(picture)
    level = luma.mean((1, 2))
    share, lift = contrast * (1 - saturation) * 255, (level * (1 - contrast) + lift) * 255
    luma.mul_(share[:, None, None]).add_(lift[:, None, None])
    return picture.mul_((contrast * saturation * 255)[:, None, None, None]).add_(luma[:, None])


def sensor(random: SampleRandom, picture: Tensor) -> Tensor:
    """Noise of the sensor, sometimes strong; grey pictures get grey noise. In place, sRGB in [0, 255]."""
    strength = random.uniform().pow(3) * 0.03 + random.bernoulli(0.06).float() * random.uniform((), 0.0, 0.07)
    bank, count, shape = _noise_bank(str(random.device)), picture[0].numel(), picture.shape[1:]
    if len(bank) <= count:  # of pictures as large as this the noise repeats
        bank = bank.repeat(count // len(bank) + 2)
    start = random.integers((), 0, len(bank) - count)
    grey = (picture[:, 0, 0, 0] == picture[:, 1, 0, 0]) & (picture[:, 0, -1, -1] == picture[:, 1, -1, -1])
    grey = (grey | random.bernoulli(0.3)).tolist()
    for k, (first, scale) in enumerate(zip(start.tolist(), (strength * 255).tolist(), strict=True)):
        # Each its window of the bank; one sample at a time, because gathering the windows would take longer.
        noise = bank[first : first + count].view(shape)
        picture[k].add_(noise[:1] if grey[k] else noise, alpha=scale)
    return picture


@functools.lru_cache(maxsize=4)
def _dct(device: str) -> tuple[Tensor, Tensor]:
    """The orthonormal 8 x 8 DCT-II on flattened blocks (64, 64), and the luminance table (64,)."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    basis = torch.cos(math.pi * (2 * n + 1) * k / 16) * torch.where(k == 0, math.sqrt(1 / 8), 0.5)
    table = torch.tensor(_LUMINANCE, dtype=torch.float32).flatten()
    return torch.kron(basis, basis).T.contiguous().to(device), table.to(device)


def _luma(picture: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB -> (B, H, W), ITU-R BT.601."""
    return (picture[:, 0] * 0.299).add_(picture[:, 1], alpha=0.587).add_(picture[:, 2], alpha=0.114)


def compress(random: SampleRandom, picture: Tensor) -> Tensor:
    """Block artefacts of JPEG in 45 % of the pictures: quantised DCT of luminance, coarse colour."""
    chosen = _chosen(random.bernoulli(0.45))
    size = picture.shape[-1]
    if not len(chosen) or size % 8:
        return picture
    part = picture[chosen]
    basis, table = _dct(str(picture.device))
    quality = random.select(chosen).uniform((), 0.15, 1.6)
    luma = _luma(part)
    small = part[:, :, ::2] + part[:, :, 1::2]
    small = (small[..., ::2] + small[..., 1::2]).mul_(0.25)
    chroma = F.interpolate(small.sub_(_luma(small)[:, None]), scale_factor=2, mode="nearest")
    blocks = luma.view(-1, size // 8, 8, size // 8, 8).transpose(2, 3).reshape(len(chosen), -1, 64)
    step = quality[:, None, None] * table
    coded = ((blocks @ basis) / step).round_().mul_(step) @ basis.T
    coded = coded.view(-1, size // 8, size // 8, 8, 8).transpose(2, 3).reshape(-1, 1, size, size)
    picture[chosen] = chroma.add_(coded)
    return picture


def from_afar(random: SampleRandom, picture: Tensor, share: float) -> Tensor:
    """A share of the pictures (B, 3, S, S) as crops of few pixels, compressed as such and enlarged. sRGB, in place."""
    size = picture.shape[-1]
    far, kind = random.bernoulli(share), random.integers((), 0, len(FAR_SIDES))
    for k, side in enumerate(FAR_SIDES):
        chosen = _chosen(far & (kind == k))
        if len(chosen) and side < size:
            small = F.interpolate(picture[chosen], (side, side), mode="bilinear", antialias=True)
            small = compress(random.fork("compress").select(chosen), small)
            picture[chosen] = F.interpolate(small, (size, size), mode="bilinear")
    return picture


def degrade(random: SampleRandom, picture: Tensor, faults: Collection[str] = FAULTS, far: float = 0.0) -> Tensor:
    """From linear light (B, 3, S, S) to the file's pixels, uint8 (B, S, S, 3).

    Args:
        random: Its draws.
        picture: Is changed.
        faults: Of the camera, some of `FAULTS`.
        far: Share of pictures that are of a few pixels, and enlarged.
    """
    if "blur" in faults:
        picture = blur(random.fork("blur"), picture)
    if "resolution" in faults:
        picture = shrink(random.fork("shrink"), picture)
    picture = develop(random.fork("develop"), picture) if "colour" in faults else expose(picture)
    if "noise" in faults:
        picture = sensor(random.fork("sensor"), picture)
    if "compression" in faults:
        picture = compress(random.fork("compress"), picture)
    if far:
        picture = from_afar(random.fork("far"), picture, far)
    return _quantised(picture)


def expose(picture: Tensor) -> Tensor:
    """`develop` by an ideal camera: linear light, clipped at 1 and put through the gamma. In place."""
    return picture.clamp_(0, 1).sqrt_().mul_(255)


def _quantised(picture: Tensor) -> Tensor:
    """(B, 3, S, S) sRGB in [0, 255] -> uint8 (B, S, S, 3); changes the picture."""
    picture.add_(0.5).clamp_(0, 255)
    images = torch.empty(*picture[:, 0].shape, 3, dtype=torch.uint8, device=picture.device)
    for channel in range(3):  # twice as fast as a conversion and a permutation
        images[..., channel].copy_(picture[:, channel])
    return images


def reach_beyond_border(random: SampleRandom, images: Tensor) -> tuple[Tensor, Tensor]:
    """Grey bands where a crop reaches beyond its picture, as the image processor leaves them.

    Args:
        random: Its draws.
        images: uint8 (B, S, S, 3), changed in place.

    Returns:
        The same images, and where they are grey now, (B, S, S) bool.
    """
    size = images.shape[1]
    beyond = random.bernoulli(BEYOND_SHARE)[:, None] & (random.uniform((4,)) < BEYOND_SIDES)
    depth = (random.uniform((4,), 0, BEYOND_DEPTH * size) * beyond).round().long()
    left, top, right, bottom = depth[..., None].unbind(1)  # (B, 1) each
    place = torch.arange(size, device=images.device)
    across, down = (place < left) | (place >= size - right), (place < top) | (place >= size - bottom)
    grey = down[:, :, None] | across[:, None]
    return images.masked_fill_(grey[..., None], BEYOND_LEVEL), grey
