"""Layers of the HandMIM network: stem, growing feature maps, sampling at points, corrections of the hand's state."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_handmim import HandMIMConfig
from .efficientnet import STEM_STAGES, WIDTHS, efficientnet_layers
from .hand_state import NUM_KEYPOINTS, STATE_SIZE, Correction

# Focal length in crop sides when no intrinsics are given: a distant camera, close to the orthographic one of PyMAF.
DEFAULT_FOCAL = 5.0
# Residual blocks at strides 2, 4, 8 and 16.
STEM_BLOCKS = (0, 1, 2, 2)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut (He et al. 2016, "basic block"), with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> same shape."""
        return F.gelu(x + self.norm2(self.conv2(F.gelu(self.norm1(self.conv1(x))))))


class ConvolutionalStem(nn.Module):
    """A convolutional network in place of the patch projection, for timm's `embed_layer`.

    The hybrid of Dosovitskiy et al. 2021, section 3.1. A subclass gives `layers`, maps (B, 3, S, S) -> (B, C', S / 16,
    S / 16), and `proj`, from C' to the tokens' C channels.

    Args:
        img_size: Side of the input, pixels.
        patch_size: Total stride, 16.
    """

    layers: nn.Module
    proj: nn.Module

    def __init__(self, img_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.set_input_size(img_size)

    def set_input_size(self, img_size: int, **_: Any) -> None:
        """Expect inputs of another side, pixels; timm's encoder asks for it and resamples its position embedding."""
        self.img_size = (img_size, img_size)
        self.grid_size = (img_size // self.patch_size[0], img_size // self.patch_size[1])
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self) -> int:
        """Pixels of the input for one cell of the output."""
        return self.patch_size[0]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, S / patch, S / patch, C)."""
        x = self.layers(pixel_values.contiguous(memory_format=torch.channels_last))
        return self.proj(x.permute(0, 2, 3, 1))


class ResidualStem(ConvolutionalStem):
    """A small residual network in the size of the tiny transformer.

    Four stages, each halving the map by a 3x3 convolution and followed by `STEM_BLOCKS` residual blocks.

    Args:
        img_size, patch_size: See [`ConvolutionalStem`].
        in_chans: Channels of the input.
        embed_dim: Channels C of the output; the stages have C/6, C/3, 2C/3 and C.
        bias: Whether the final projection has a bias.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int = 3, embed_dim: int = 768, bias: bool = True, **_: Any
    ) -> None:
        super().__init__(img_size, patch_size)
        widths = [in_chans, embed_dim // 6, embed_dim // 3, 2 * embed_dim // 3, embed_dim]
        layers: list[nn.Module] = []
        for (before, width), blocks in zip(pairwise(widths), STEM_BLOCKS, strict=True):
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
            layers += [ResidualBlock(width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.proj = nn.Linear(embed_dim, embed_dim, bias=bias)


class EfficientNetStem(ConvolutionalStem):
    """EfficientNet-Lite0 up to stride 16: as `layers` the first convolution and five stages.

    Args:
        img_size, patch_size: See [`ConvolutionalStem`].
        in_chans: Channels of the input.
        embed_dim: Channels C of the output.
        bias: Whether the final projection has a bias.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_chans: int = 3, embed_dim: int = 768, bias: bool = True, **_: Any
    ) -> None:
        super().__init__(img_size, patch_size)
        self.layers = efficientnet_layers(in_chans, STEM_STAGES)
        self.proj = nn.Linear(WIDTHS[STEM_STAGES], embed_dim, bias=bias)


# Of `HandMIMConfig.stem`, what stands in place of timm's patch projection.
STEMS: dict[str, type[nn.Module]] = {"residual": ResidualStem, "efficientnet": EfficientNetStem}


class Upsample(nn.Module):
    """Transposed convolution with kernel 2 and stride 2, layer norm and GELU, on channels-last maps (B, h, w, C).

    PyMAF's layer with the norm and activation of the transformer: layer norm does not depend on the batch. PyMAF's
    kernel is 4; with 2 a cell depends on one parent only, so that single cells can be computed (`sample_points`).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, 2 h, 2 w, C')."""
        x = self._expand(x).unflatten(-1, (2, 2))  # (B, h, w, C', 2, 2)
        return F.gelu(self.norm(x.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)))

    def pick_children(self, cells: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """One child of each cell (..., C), by row (0 upper, 1 lower) and column (0 left, 1 right): (..., C')."""
        expanded = self._expand(cells)
        index = (row * 2 + column)[..., None, None].expand(*expanded.shape[:-1], 1)
        return F.gelu(self.norm(expanded.gather(-1, index).squeeze(-1)))

    def _expand(self, x: Tensor) -> Tensor:
        """Cells (..., C) -> their four children (..., C', 4) before the norm: a product with the weight as it lies."""
        return (x @ self.deconv.weight.flatten(1)).unflatten(-1, (-1, 4))


class Regressor(nn.Module):
    """Two hidden layers from evidence and the current state to a correction of the state (HMR's error feedback)."""

    def __init__(self, in_features: int, config: HandMIMConfig) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(in_features + STATE_SIZE, config.regressor_hidden_size)
        self.hidden2 = nn.Linear(config.regressor_hidden_size, config.regressor_hidden_size)
        self.output = Correction(config.regressor_hidden_size, STATE_SIZE)
        self.dropout = nn.Dropout(config.regressor_dropout)

    def forward(self, evidence: list[Tensor], state: Tensor) -> Tensor:
        """Evidence [(B, ...), ...] and state (B, 109) -> the corrected state, float32."""
        dtype = self.hidden1.weight.dtype
        x = torch.cat([part.to(dtype) for part in [*evidence, state]], dim=1)
        x = self.dropout(F.gelu(self.hidden1(x)))
        x = self.dropout(F.gelu(self.hidden2(x)))
        return state + self.output(x).float()


class Rectifier(nn.Module):
    """Features at the projected keypoints, reduced point by point, then a correction (PyMAF, section 3.2)."""

    def __init__(self, channels: int, config: HandMIMConfig) -> None:
        super().__init__()
        hidden, final = config.point_channels
        self.reduce1 = nn.Linear(channels, hidden)
        self.reduce2 = nn.Linear(hidden, final)
        extra = 3 * NUM_KEYPOINTS if config.heatmap_evidence else 0
        self.regressor = Regressor(NUM_KEYPOINTS * final + extra, config)

    def forward(self, features: Tensor, evidence: list[Tensor], state: Tensor) -> Tensor:
        """Sampled features (B, 21, C), other evidence [(B, ...), ...], state (B, 109) -> the corrected state."""
        x = features.to(self.reduce1.weight.dtype)
        x = F.gelu(self.reduce2(F.gelu(self.reduce1(x))))
        return self.regressor([x.flatten(1), *evidence], state)


def sample_points(feature_map: Tensor, points: Tensor, layers: Sequence[Upsample] = ()) -> Tensor:
    """Bilinear samples, equal to `grid_sample(..., align_corners=False)` with zeros outside.

    Gathers touch 84 cells of a map; grid_sample would copy the whole map to float32 and to channels first. Of the maps
    that `layers` would grow, only those cells are computed.

    Args:
        feature_map: (B, h, w, C).
        points: (B, N, 2) x, y; -1 and 1 are the outer edges of the map. No gradient flows into them.
        layers: Applied in this order to the map before it is sampled.

    Returns:
        (B, N, C') in float32.
    """
    depth = len(layers)
    height, width = feature_map.shape[1] << depth, feature_map.shape[2] << depth
    row, column, weight = bilinear_cells(points, height, width)
    cells = gather_cells(feature_map, row >> depth, column >> depth)
    for shift, layer in zip(range(depth - 1, -1, -1), layers, strict=True):
        cells = layer.pick_children(cells, row >> shift & 1, column >> shift & 1)
    return (weight[..., None] * cells.float()).sum(2)


def bilinear_cells(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The four cells around points (B, N, 2) in [-1, 1]: rows, columns, and weights (0 outside), each (B, N, 4)."""
    points = points.detach().float().nan_to_num().clamp(-4, 4)  # far outside everything is zero
    x = (points[..., 0, None, None] + 1) * (width / 2) - 0.5
    y = (points[..., 1, None, None] + 1) * (height / 2) - 0.5
    offset = torch.arange(2, device=x.device)
    column, row = torch.broadcast_tensors(x.floor().long() + offset, y.floor().long() + offset[:, None])
    weight = (1 - (x - column).abs()) * (1 - (y - row).abs())  # (B, N, 2, 2)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    weight = torch.where(inside, weight, 0.0)
    return row.clamp(0, height - 1).flatten(2), column.clamp(0, width - 1).flatten(2), weight.flatten(2)


def gather_cells(feature_map: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Cells of a map (B, h, w, C) at rows and columns (B, N, 4): (B, N, 4, C)."""
    batch, height, width, channels = feature_map.shape
    index = row * width + column + (torch.arange(batch, device=row.device) * (height * width)).view(-1, 1, 1)
    return F.embedding(index, feature_map.reshape(-1, channels))


def soft_argmax(log_probability: Tensor) -> Tensor:
    """Mean position under heat maps (B, K, h, w), log-softmax over h x w: (B, K, 2) in [-1, 1] crop coordinates."""
    probability = log_probability.exp()
    height, width = probability.shape[-2:]
    x = (torch.arange(width, device=probability.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=probability.device) + 0.5) * (2 / height) - 1
    return torch.stack([probability.sum(-2) @ x, probability.sum(-1) @ y], dim=-1)


def normalise_pixels(pixels: Tensor, size: int) -> Tensor:
    """Crop pixels -> [-1, 1] crop coordinates: -0.5 and size - 0.5 are the edges."""
    return (pixels + 0.5) * (2 / size) - 1


def default_crop_intrinsics(size: int, device: torch.device) -> Tensor:
    """(3, 3) intrinsics assumed for a crop of unknown origin: a distant camera that looks at its centre."""
    focal, centre = DEFAULT_FOCAL * size, (size - 1) / 2
    return torch.tensor([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]], device=device)
