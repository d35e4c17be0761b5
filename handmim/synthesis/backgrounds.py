"""What is behind the hand: a bank of drawn pictures, each made when first needed, of which samples take crops.

Drawing costs milliseconds a picture, a crop costs microseconds; crops, flips, colours and pairs make the bank's few
hundred pictures into many more.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import constant
from .random import SampleRandom
from .variety import Variety

BANK_SIDE = 256  # px
BANK_COUNT = 256
_MAX_SHAPES = 14
_OCTAVES = (3, 6, 13, 28, 64, 128)


def colours(random: SampleRandom, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape, 3) sRGB in [0, 1]: mostly dull, of any lightness, one in six the colour of skin."""
    light = random.uniform((*shape, 1)).sqrt()
    hue = random.uniform((*shape, 3))
    saturation = random.uniform((*shape, 1)).pow(3)
    low, high = hue.amin(-1, keepdim=True), hue.amax(-1, keepdim=True)
    vivid = light * (1 - saturation * (1 - (hue - low) / (high - low).clamp(min=0.05)))
    flesh = constant((0.95, 0.70, 0.56), random.device) * (0.25 + 0.75 * light)
    return torch.where(random.bernoulli(0.17, (*shape, 1)), flesh, vivid)


def _octave_noise(random: SampleRandom, side: int, channels: int) -> Tensor:
    """(B, channels, side, side), mean 0, standard deviation about 1, of random roughness."""
    total = torch.zeros(random.batch_size, channels, side, side, device=random.device)
    slope = random.uniform((), 0.3, 1.2)
    first = random.integers((), 0, 4)
    power = torch.zeros(random.batch_size, device=random.device)
    for k, cells in enumerate(_OCTAVES):
        weight = torch.where(k >= first, torch.exp(-slope * (k - first)), torch.zeros_like(slope))
        power = power + weight.square()
        field = F.interpolate(random.normal((channels, cells, cells)), (side, side), mode="bilinear")
        total += field * weight[:, None, None, None]
    return total * (1.6 / power.sqrt())[:, None, None, None]


def _plane(random: SampleRandom, side: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Coordinates (B, side, side) in a random rotated frame, `low` to `high` units across the picture."""
    angle = torch.where(random.bernoulli(0.5), random.normal((), 0, 0.1), random.uniform((), 0, math.pi))
    scale, shift = random.log_uniform((), low, high), random.uniform((2,), -0.5, 0.5)
    axis = torch.linspace(-0.5, 0.5, side, device=random.device)
    x = axis[None, None, :] - shift[:, 0, None, None]
    y = axis[None, :, None] - shift[:, 1, None, None]
    cosine, sine = (angle.cos() * scale)[:, None, None], (angle.sin() * scale)[:, None, None]
    return x * cosine + y * sine, y * cosine - x * sine


def _pattern(random: SampleRandom, side: int) -> Tensor:
    """(B, side, side) in [0, 1]: one of nothing, stripes, checks, bricks, lines of text, tiles."""
    u, v = _plane(random, side, 3.0, 24.0)
    choice = random.choice((0.5, *(weight for _, weight in _PATTERNS)))
    result = torch.zeros_like(u)
    for k, (pattern, _) in enumerate(_PATTERNS):
        chosen = torch.nonzero(choice == k + 1).squeeze(1)
        if len(chosen):
            result[chosen] = pattern(u[chosen], v[chosen])
    return result


def _wave(u: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * u)


def _inside(v: Tensor, middle: float, half: float) -> Tensor:
    """1 where the fraction of v lies within `half` of `middle`, else 0."""
    return ((torch.frac(v + 100) - middle).abs() < half).float()


def _bricks(u: Tensor, v: Tensor) -> Tensor:
    return _inside(v, 0.5, 0.425) * _inside((u + 0.5 * torch.floor(v)) / 2, 0.5, 0.465)


def _text(u: Tensor, v: Tensor) -> Tensor:
    line = torch.floor(v)
    return _inside(v, 0.4, 0.22) * (torch.sin(u * 23 + line * 77) + torch.sin(u * 9.7 + line * 31) > -0.3)


# Value in [0, 1] at coordinates (u, v) of stripes, checks, bricks, lines of text, tiles; and how frequent each is.
_PATTERNS = (
    (lambda u, v: (_wave(u) * 6 + 0.5).clamp(0, 1), 0.14),
    (lambda u, v: (_wave(u) * _wave(v) * 12 + 0.5).clamp(0, 1), 0.07),
    (_bricks, 0.1),
    (_text, 0.11),
    (lambda u, v: _inside(v, 0.5, 0.46) * _inside(u, 0.5, 0.46), 0.08),
)


def _shape_mask(random: SampleRandom, side: int) -> Tensor:
    """(B, 1, side, side) coverage in [0, 1] of one box, ellipse, bar or half-plane."""
    u, v = _plane(random, side, 1.0, 1.0)
    half = random.log_uniform((2,), 0.03, 0.5)
    kind = random.choice((0.4, 0.3, 0.2, 0.1))
    half = torch.stack([torch.where(kind >= 2, torch.full_like(half[:, 0], 9.0), half[:, 0]), half[:, 1]], 1)
    half[:, 1] = torch.where(kind == 2, half[:, 1] * 0.15, half[:, 1])
    p, q = u / half[:, 0, None, None], v / half[:, 1, None, None]
    box = torch.maximum(p.abs(), torch.where((kind == 3)[:, None, None], q, q.abs()))
    distance = torch.where((kind == 1)[:, None, None], (p * p + q * q).sqrt(), box)
    edge = half.amin(1)[:, None, None] * side
    return ((1 - distance) * edge + 0.5).clamp(0, 1)[:, None]


def draw_backgrounds(random: SampleRandom, side: int) -> Tensor:
    """Draw whole pictures.

    Returns:
        (B, 3, side, side) sRGB in [0, 1].
    """
    u, _ = _plane(random, side, 0.5, 3.0)
    blend = (u + 0.5).clamp(0, 1)[:, None]
    ends = colours(random, (3,))[..., None, None]
    picture = ends[:, 0] + blend * (ends[:, 1] - ends[:, 0])
    picture = picture + _pattern(random, side)[:, None] * (ends[:, 2] - picture) * random.uniform((1, 1, 1), 0.2, 1.0)
    mono = _octave_noise(random, side, 1)
    grain = mono.expand(-1, 3, -1, -1).clone()
    coloured = torch.nonzero(random.bernoulli(0.12)).squeeze(1)
    if len(coloured):
        grain[coloured] = _octave_noise(random.fork("coloured").select(coloured), side, 3)
    picture = picture * (1 + grain * random.uniform((1, 1, 1)).pow(3) * 0.35)
    # Half the pictures are rooms full of things, the others walls and tables.
    count = torch.where(random.bernoulli(0.5), random.integers((), 0, 3), random.integers((), 3, _MAX_SHAPES + 1))
    for k in range(_MAX_SHAPES):
        chosen = torch.nonzero(k < count).squeeze(1)
        if not len(chosen):
            break
        shape = random.fork(f"shape{k}").select(chosen)
        fill = 1 + mono[chosen].roll(17 * k, 2) * shape.uniform((1, 1, 1), -0.25, 0.25)
        fill = fill * (1 + blend[chosen].roll(31 * k, 3) * shape.uniform((1, 1, 1), -0.5, 0.3))
        colour = colours(shape, ())[..., None, None]
        picture[chosen] = torch.lerp(picture[chosen], fill * colour, _shape_mask(shape, side))
    picture = (picture - 0.5) * random.uniform((1, 1, 1), 0.6, 1.2) + 0.5 + random.normal((1, 1, 1), 0.0, 0.08)
    picture = _defocus(random, picture).clamp(0, 1)
    # Cut-outs and studio walls: plain white, grey or black.
    level = torch.where(random.bernoulli(0.6), torch.ones_like(random.uniform()), random.uniform())[:, None, None, None]
    return torch.where(random.bernoulli(0.08, (1, 1, 1)), level, picture)


def _defocus(random: SampleRandom, picture: Tensor) -> Tensor:
    """Blur by one of four strengths; half the pictures stay sharp."""
    strength = random.choice((0.45, 0.2, 0.2, 0.15))
    side = picture.shape[-1]
    for k, factor in enumerate((2, 5, 11)):
        chosen = torch.nonzero(strength == k + 1).squeeze(1)
        if len(chosen):
            smooth = F.avg_pool2d(picture[chosen], 3, 1, 1, count_include_pad=False)
            small = F.avg_pool2d(smooth, factor, ceil_mode=True)
            picture[chosen] = F.interpolate(small, (side, side), mode="bicubic")
    return picture


def pack(pictures: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N * H * W,) int32, so that one gather fetches a pixel."""
    padded = torch.cat([pictures, torch.zeros_like(pictures[..., :1])], -1).contiguous()
    return padded.view(torch.int32).reshape(-1)


class BackgroundBank:
    """The drawn pictures of a seed. Each is drawn when first needed, alone, so that it never depends on the others.

    Args:
        seed: Names the pictures.
        count: How many there are.
        device: Where they lie.
    """

    def __init__(self, seed: int, count: int, device: str = "cpu") -> None:
        self.seed, self.count = seed, count
        self._packed = torch.empty(count, BANK_SIDE**2, dtype=torch.int32, device=device)
        self._drawn = [False] * count

    def packed(self, entry: Tensor) -> Tensor:
        """(count * BANK_SIDE^2,) int32, see `pack`; of its pictures at least those of `entry` (B,) int64 are there."""
        wanted = set() if all(self._drawn) else set(entry.tolist())  # a GPU waits where its numbers are looked at
        for number in wanted:
            if not self._drawn[number]:
                index = torch.tensor([number], device=self._packed.device)
                picture = draw_backgrounds(SampleRandom(self.seed, index).fork("backgrounds"), BANK_SIDE)
                picture = picture.mul_(255).round_().to(torch.uint8)
                self._packed[number] = pack(picture.permute(0, 2, 3, 1))
                self._drawn[number] = True
        return self._packed.view(-1)


@functools.lru_cache(maxsize=2)
def background_bank(seed: int, device: str = "cpu") -> BackgroundBank:
    """The `BANK_COUNT` pictures of a seed, the same object for the same arguments."""
    return BackgroundBank(seed, BANK_COUNT, device)


def photo_bank(photos: Tensor, device: str = "cpu") -> Tensor:
    """Packed like `BackgroundBank`: the middle squares of photos (N, H, W, 3) uint8, at `BANK_SIDE`."""
    side = min(photos.shape[1:3])
    top, left = (photos.shape[1] - side) // 2, (photos.shape[2] - side) // 2
    square = photos[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
    size = (BANK_SIDE, BANK_SIDE)
    parts = (
        F.interpolate(part.to(device).float(), size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for part in square.split(64)
    )
    return pack(torch.cat(list(parts)).permute(0, 2, 3, 1))


def crop_bank(random: SampleRandom, bank: BackgroundBank | Tensor, size: int) -> Tensor:
    """Random crops of the bank: turned by quarter turns, flipped, scaled by 0.55 to 1.

    Returns:
        (B, 3, size, size) float32, sRGB in [0, 255].
    """
    count = len(bank) // BANK_SIDE**2 if isinstance(bank, Tensor) else bank.count
    extent = random.uniform((2,), 0.55, 1.0).mean(1) * (BANK_SIDE - 1)
    start = random.uniform((2,)) * (BANK_SIDE - 1 - extent[:, None])
    step = torch.linspace(0, 1, size, device=random.device) * extent[:, None]
    along, across = ((step + start[:, k, None] + 0.5).long() for k in range(2))
    flip, turn = random.bernoulli(0.5), random.bernoulli(0.2)
    across = torch.where(flip[:, None], across.flip(1), across)
    along, across = (
        torch.where(turn[:, None], across, along * BANK_SIDE),
        torch.where(turn[:, None], along * BANK_SIDE, across),
    )
    entry = random.integers((), 0, count)
    packed = bank if isinstance(bank, Tensor) else bank.packed(entry)
    base = entry[:, None] * BANK_SIDE**2 + along
    flat = (base[:, :, None] + across[:, None, :]).view(-1)
    pixel = packed.index_select(0, flat).view(torch.uint8).view(-1, size, size, 4)[..., :3]
    return pixel.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def compose_background(
    random: SampleRandom,
    bank: BackgroundBank | Tensor,
    size: int,
    photos: Tensor | None = None,
    share: float = Variety.photos,
) -> Tensor:
    """One background a sample, two crops of the bank with a shape between them in half of the cases.

    Args:
        random: Its draws.
        bank: From `background_bank`.
        size: px.
        photos: From `photo_bank`; then a share of the samples show a photo.
        share: Of these.

    Returns:
        (B, 3, size, size) linear in [0, about 1.5].
    """
    picture = crop_bank(random.fork("back"), bank, size)
    if photos is not None:
        shown = crop_bank(random.fork("photo"), photos, size)
        picture = torch.where(random.fork("pick").bernoulli(share, (1, 1, 1)), shown, picture)
    chosen = torch.nonzero(random.bernoulli(0.45)).squeeze(1)
    if len(chosen):
        front = random.fork("front").select(chosen)
        mask = _shape_mask(front, size)
        picture[chosen] = torch.lerp(picture[chosen], crop_bank(front, bank, size), mask)
    tint = random.normal((3,), 1.0, 0.10) * random.uniform((1,), 0.55, 1.15)
    return picture.mul_((tint / 255)[..., None, None]).square_()
