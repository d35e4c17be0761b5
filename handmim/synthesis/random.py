"""Random numbers that belong to a sample: the same for (seed, index) in any batch, order, process or device."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ..constants import constant

_MASK = 0xFFFFFFFFFFFFFFFF
_BLOCK = 64  # uniform numbers a sample that are made at once


def _mix64(value: int) -> int:
    """SplitMix64 finaliser (Steele et al., "Fast splittable pseudorandom number generators", 2014) of a Python int."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _signed(value: int, bits: int) -> int:
    """The two's complement reading of the low `bits` bits, which is what torch's signed types hold."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _mix32(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 (public domain) on int32; shifts are made logical by a mask. In place."""
    x ^= (x >> 16) & 0xFFFF
    x *= _signed(0x85EBCA6B, 32)
    x ^= (x >> 13) & 0x7FFFF
    x *= _signed(0xC2B2AE35, 32)
    x ^= (x >> 16) & 0xFFFF
    return x


def _mix64_tensor(x: Tensor) -> Tensor:
    """`_mix64` on int64 tensors (wrapping arithmetic)."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB, 64)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _to_unit(bits: Tensor) -> Tensor:
    """int32 bits -> float32 in [0, 1), by the upper 24."""
    return ((bits >> 8) & 0xFFFFFF).to(torch.float32).mul_(2.0**-24)


class SampleRandom:
    """Counter-based random numbers, one independent stream for each sample of a batch.

    Every draw hashes (seed, index, stream, position), so a sample's numbers never depend on its neighbours in the
    batch. Two habits keep it so: the calls made on one object must not depend on the batch's content (draw first,
    select with `torch.where` afterwards), and each part of a program draws from its own `fork("name")`, so that a new
    draw in one part leaves the others as they were.

    Args:
        seed: Any integer; the same seed gives the same data set.
        index: (B,) int64, sample indices. Their device is the device of all draws.
    """

    def __init__(self, seed: int, index: Tensor) -> None:
        if index.ndim != 1 or index.dtype != torch.int64:
            raise ValueError(f"index must be a 1-D int64 tensor, got {index.dtype} of shape {tuple(index.shape)}")
        self.index = index
        self._base = _mix64(seed & _MASK)
        self._position = 0
        self._keys: tuple[Tensor, Tensor] | None = None
        # Small draws are cut from one block of uniform numbers: a draw then costs one tensor operation, not thirty.
        self._block: Tensor | None = None
        self._block_start = 0

    @property
    def batch_size(self) -> int:
        """Number of samples, B."""
        return self.index.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the draws lie."""
        return self.index.device

    def fork(self, name: str) -> SampleRandom:
        """An independent stream for a named part; the same name gives the same stream, whatever was drawn before."""
        child = SampleRandom(0, self.index)
        child._base = _mix64(self._base ^ ((zlib.crc32(name.encode()) + 1) * 0x9E3779B97F4A7C15 & _MASK))
        return child

    def on(self, index: Tensor) -> SampleRandom:
        """The streams that other samples (B',) have under the same seed and names, from the same position on."""
        child = SampleRandom(0, index)
        child._base, child._position = self._base, self._position
        return child

    def select(self, where: Tensor) -> SampleRandom:
        """The same streams for a subset of the samples (bool (B,) or int64 positions), from the same position on."""
        return self.on(self.index[where])

    def _hash(self, position: int, count: int) -> Tensor:
        """(B, count) int32, the random bits number `position` and following of each stream."""
        if self._keys is None:
            base = _signed(self._base, 64)
            key = _mix64_tensor(_mix64_tensor(self.index + base) + base)  # (B,)
            self._keys = key.to(torch.int32)[:, None], (key >> 32).to(torch.int32)[:, None]
        low, high = self._keys
        counter = torch.arange(position + 1, position + count + 1, dtype=torch.int32, device=self.device)
        return _mix32(_mix32(counter.mul_(_signed(0x9E3779B9, 32)) + low).add_(high))

    def bits(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) int32, all 32 bits random."""
        count = math.prod(shape)
        self._position += count
        return self._hash(self._position - count, count).reshape(self.batch_size, *shape)

    def uniform(self, shape: Sequence[int] = (), low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32 in [low, high), multiples of 2^-24 of the width."""
        count, start = math.prod(shape), self._position
        self._position += count
        if count > _BLOCK // 2:
            unit = _to_unit(self._hash(start, count))
        else:
            if self._block is None or not 0 <= start - self._block_start <= _BLOCK - count:
                self._block, self._block_start = _to_unit(self._hash(start, _BLOCK)), start
            unit = self._block[:, start - self._block_start :][:, :count]
        return (unit * (high - low)).add_(low).reshape(self.batch_size, *shape)

    def log_uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """(B, *shape) float32, the logarithm uniform between those of `low` and `high` (both positive)."""
        return self.uniform(shape, math.log(low), math.log(high)).exp_()

    def normal(self, shape: Sequence[int] = (), mean: float = 0.0, std: float = 1.0) -> Tensor:
        """(B, *shape) float32, Gaussian (Box and Muller, 1958); no value beyond 5.9 standard deviations."""
        radius = self.uniform(shape).neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
        return radius.mul_(self.uniform(shape, 0.0, 2 * math.pi).cos_()).mul_(std).add_(mean)

    def integers(self, shape: Sequence[int], low: int, high: int) -> Tensor:
        """(B, *shape) int64 in [low, high)."""
        if high <= low:
            raise ValueError(f"high must be above low, got [{low}, {high})")
        return (self.uniform(shape).double() * (high - low)).long() + low

    def bernoulli(self, probability: float | Tensor, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) bool, true with `probability` (a number, or a tensor that broadcasts)."""
        return self.uniform(shape) < probability

    def choice(self, weights: Sequence[float] | Tensor, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape) int64, k with a probability proportional to weights[k] (K,)."""
        if not isinstance(weights, Tensor):
            weights = constant(tuple(map(float, weights)), self.device)
        edges = (weights.cumsum(0) / weights.sum())[:-1].contiguous()
        return torch.bucketize(self.uniform(shape), edges, right=True)

    def rotation(self, shape: Sequence[int] = ()) -> Tensor:
        """(B, *shape, 3, 3) float32, rotations uniform over SO(3) (Shoemake, Graphics Gems III, 1992)."""
        u, a, b = self.uniform(shape), self.uniform(shape, 0, 2 * math.pi), self.uniform(shape, 0, 2 * math.pi)
        x, y, z, w = (1 - u).sqrt() * a.sin(), (1 - u).sqrt() * a.cos(), u.sqrt() * b.sin(), u.sqrt() * b.cos()
        rows = [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ]
        return torch.stack(rows, -2)
