"""A feature pyramid: maps of several resolutions, brought together at the finest; and EfficientNet-Lite0 with one."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import WIDTHS, efficientnet_layers


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, width: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Pyramid(nn.Module):
    """Maps of strides that double, brought together at the finest (Lin et al., CVPR 2017).

    Args:
        widths: Channels of the maps, finest first.
        width: Channels of the result.
    """

    def __init__(self, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)
        self.smooth = nn.ModuleList(ConvNorm(width, width) for _ in widths[:-1])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """As many (B, C_k, h_k, w_k) as `widths`, finest first -> (B, C, h_0, w_0)."""
        x = self.lateral[-1](maps[-1])
        for level in reversed(range(len(self.smooth))):
            x = self.lateral[level](maps[level]) + F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.smooth[level](x)
        return x


class EfficientNetPyramid(nn.Module):
    """EfficientNet-Lite0 as far as its last map is needed, some of its maps brought together at the finest of them.

    Args:
        in_channels: Channels of the input.
        width: Channels C of the output.
        stages: Which maps, from the finest on, each of twice the stride of the one before: stages of
            `efficientnet.STRIDES`.
    """

    def __init__(self, in_channels: int, width: int, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.layers = efficientnet_layers(in_channels, stages[-1])
        self.pyramid = Pyramid(tuple(WIDTHS[stage] for stage in stages), width)

    def forward(self, pixel_values: Tensor, call: Callable[[nn.Module, Tensor], Tensor] = nn.Module.__call__) -> Tensor:
        """(B, 3, S, S) -> (B, C, S / s, S / s), s the stride of the finest map; `call` gives what a layer makes of its
        input, as gradient checkpointing does."""
        # Maps keep this order of memory through all layers: a fifth faster on CPUs.
        x, maps = pixel_values.contiguous(memory_format=torch.channels_last), []
        for stage, layer in enumerate(self.layers):
            x = call(layer, x)
            if stage in self.stages:
                maps.append(x)
        return self.pyramid(maps)
