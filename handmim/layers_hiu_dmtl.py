"""Layers of HIU-DMTL: stem, encoder, decoders, task attention, regressor (sections 3.1 and 3.2 of the paper)."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_hiu_dmtl import HIUDMTLConfig
from .hand_state import STATE_SIZE, Correction
from .layers_pyramid import EfficientNetPyramid
from .targets_hiu_dmtl import BONES, mean_fields

# Cells of the regressor's last map, a side: some of where things are must survive the pooling.
REGRESSOR_CELLS = 4
# Of EfficientNet-Lite0's stages in the stem those that are the last of their stride, from 4 on.
PYRAMID_STAGES = (2, 3, 5)


class Bottleneck(nn.Module):
    """Pre-activated residual bottleneck: 1x1, 3x3, 1x1 convolutions through half the channels (stacked hourglass)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.norm1, self.reduce = nn.BatchNorm2d(width), nn.Conv2d(width, half, 1, bias=False)
        self.norm2, self.conv = nn.BatchNorm2d(half), nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.norm3, self.expand = nn.BatchNorm2d(half), nn.Conv2d(half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> same shape."""
        # in place wherever nothing else reads the tensor: a tenth of a CPU's time goes into moving maps
        y = self.reduce(F.relu_(self.norm1(x)))
        y = self.conv(F.relu_(self.norm2(y)))
        return self.expand(F.relu_(self.norm3(y))).add_(x)


class ConvolutionStem(nn.Sequential):
    """Two 7x7 convolutions with stride 2 (section 3.1)."""

    def __init__(self, in_channels: int, width: int) -> None:
        half = width // 2
        super().__init__(
            nn.Conv2d(in_channels, half, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, S / 4, S / 4)."""
        if pixel_values.device.type != "cpu":  # which computes large kernels a third faster on planes
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        return super().forward(pixel_values)


# By `HIUDMTLConfig.stem`.
STEMS: dict[str, Callable[[int, int], nn.Module]] = {
    "convolutions": ConvolutionStem,
    "efficientnet": partial(EfficientNetPyramid, stages=PYRAMID_STAGES),
}


class Hourglass(nn.Module):
    """Features at every resolution, brought together at the finest (Newell et al. 2016).

    Args:
        width: Channels.
        depth: Residual blocks at each resolution, on the way down and on the way across.
        levels: How often the map is halved.
    """

    def __init__(self, width: int, depth: int, levels: int) -> None:
        super().__init__()
        self.across = nn.ModuleList(_blocks(width, depth) for _ in range(levels))
        self.down = nn.ModuleList(_blocks(width, depth) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> same shape."""
        kept = []
        for across, down in zip(self.across, self.down, strict=True):
            kept.append(across(x))
            x = down(F.max_pool2d(x, 2))
        for skip in reversed(kept):
            x = skip + F.interpolate(x, scale_factor=2, mode="nearest")
        return x


class MapHead(nn.Conv2d):
    """A 1x1 convolution that starts near zero: empty maps first, as SimpleBaseline (Xiao et al., ECCV 2018)."""


class TaskDecoder(nn.Module):
    """Features of one task, and what they say about it."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Bottleneck(width), nn.BatchNorm2d(width), nn.ReLU())
        self.head = MapHead(width, out_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> features (B, C, h, w) and maps (B, out, h, w)."""
        features = self.features(x)
        return features, self.head(features)


class TaskAttention(nn.Module):
    """Task attention module (figure 3): which task speaks in which channel.

    Global average pooling of each task, concatenation, a fully connected bottleneck, softmax over the tasks, and the
    weighted sum.

    Args:
        tasks: Number N of tasks.
        width: Channels C of each.
        bottleneck: Width of the hidden layer.
    """

    def __init__(self, tasks: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(tasks * width, bottleneck)
        self.norm = nn.LayerNorm(bottleneck)  # SKNet: batch norm, which a batch of one has no use for
        self.excite = nn.Linear(bottleneck, tasks * width)

    def forward(self, features: list[Tensor]) -> Tensor:
        """N of (B, C, h, w) -> (B, C, h, w)."""
        pooled = torch.cat([feature.mean((2, 3)) for feature in features], 1)
        weights = self.excite(F.relu(self.norm(self.squeeze(pooled)))).unflatten(1, (len(features), -1)).softmax(1)
        weighted = (w[..., None, None] * f for w, f in zip(weights.unbind(1), features, strict=True))
        return sum(weighted)


class TaskConcatenation(nn.Sequential):
    """Table 5's baseline in place of the attention: concatenation and a 3x3 convolution."""

    def __init__(self, tasks: int, width: int) -> None:
        super().__init__(nn.Conv2d(tasks * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, features: list[Tensor]) -> Tensor:
        """N of (B, C, h, w) -> (B, C, h, w)."""
        return super().forward(torch.cat(features, 1))


class MultiTaskBlock(nn.Module):
    """One stack: shared encoder, one decoder a task, fusion of their features."""

    def __init__(self, config: HIUDMTLConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.encoder = Hourglass(width, config.encoder_depth, config.encoder_levels)
        channels = {"heatmaps": config.num_keypoints, "mask": 1, "pof": 3 * len(BONES)}
        # Without any task the encoder's own features go on (table 4: mesh only).
        self.decoders = nn.ModuleDict({task: TaskDecoder(width, channels[task]) for task in config.tasks})
        if config.tasks:
            sizes = (len(config.tasks), width)
            attention = config.task_attention
            self.fusion = TaskAttention(*sizes, config.attention_size) if attention else TaskConcatenation(*sizes)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Low-level features of the stem and high-level ones of the stack before, both (B, C, h, w).

        Returns:
            High-level features (B, C, h, w), and for each task its maps: heatmaps (B, 21, h, w), mask (B, 1, h, w)
            logits, pof (B, 60, h, w).
        """
        x = self.encoder(self.merge(torch.cat([low, high], 1)))
        features, maps = [], {}
        for task, decoder in self.decoders.items():
            feature, maps[task] = decoder(x)
            features.append(feature)
        return self.fusion(features) if features else x, maps


class HandRegressor(nn.Module):
    """From attended features to a correction of the hand's state; one set of weights for all stacks (section 3.2).

    The state is that of `hand_state`, then the logarithm of the focal length in sides of the crop.
    """

    def __init__(self, config: HIUDMTLConfig) -> None:
        super().__init__()
        widths = [config.hidden_size, *config.regressor_channels]
        layers: list[nn.Module] = []
        for before, width in pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.reduce = nn.Sequential(*layers)
        hidden = config.regressor_hidden_size
        self.hidden1 = nn.Linear(regressor_inputs(config), hidden)
        self.hidden2 = nn.Linear(hidden, hidden)
        self.output = Correction(hidden, STATE_SIZE + 1)
        self.dropout = nn.Dropout(config.regressor_dropout)

    def forward(self, features: Tensor, evidence: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, h, w), evidence (B, E), state (B, 110) -> the corrected state, and what was read (B, I)."""
        x = F.adaptive_avg_pool2d(self.reduce(features), REGRESSOR_CELLS).flatten(1)
        parts = [x, state.to(x.dtype)] if evidence is None else [x, evidence.to(x.dtype), state.to(x.dtype)]
        seen = torch.cat(parts, 1)
        x = self.dropout(F.relu(self.hidden1(seen)))
        x = self.dropout(F.relu(self.hidden2(x)))
        return state + self.output(x).float(), seen


def regressor_inputs(config: HIUDMTLConfig) -> int:
    """Numbers that the regressor reads: pooled features, evidence, and the state before."""
    return config.regressor_channels[-1] * REGRESSOR_CELLS**2 + evidence_size(config) + STATE_SIZE + 1


def evidence_size(config: HIUDMTLConfig) -> int:
    """Numbers that `map_evidence` gives: 3 a keypoint, 3 a bone."""
    if not config.regressor_evidence:
        return 0
    return 3 * config.num_keypoints * ("heatmaps" in config.tasks) + 3 * len(BONES) * ("pof" in config.tasks)


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """Equation 1: the mean position under heat maps of non-negative values.

    Args:
        heatmaps: (B, K, h, w); negative values count as nothing.

    Returns:
        (B, K, 2) x, y in [-1, 1] crop coordinates, float32; the crop's centre for an empty map.
    """
    weight = heatmaps.float().clamp(min=0)
    total = weight.sum((2, 3)).clamp(min=1e-6)
    height, width = weight.shape[-2:]
    x = (torch.arange(width, device=weight.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=weight.device) + 0.5) * (2 / height) - 1
    return torch.stack([(weight.sum(2) @ x) / total, (weight.sum(3) @ y) / total], -1)


def map_evidence(maps: dict[str, Tensor]) -> Tensor:
    """The maps in numbers: position (x, y) and height of each heat map, mean of each bone's field where it is strong.

    Args:
        maps: heatmaps (B, 21, h, w) and/or pof (B, 60, h, w).

    Returns:
        (B, E) float32.
    """
    parts = []
    if "heatmaps" in maps:
        parts += [soft_argmax(maps["heatmaps"]).flatten(1), maps["heatmaps"].float().amax((2, 3))]
    if "pof" in maps:
        parts.append(mean_fields(maps["pof"].unflatten(1, (len(BONES), 3))).flatten(1))
    return torch.cat(parts, 1)


def _blocks(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(width) for _ in range(depth)))
