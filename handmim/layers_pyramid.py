"""A feature pyramid: maps of several resolutions, brought together at the finest."""

import torch.nn.functional as F
from torch import Tensor, nn


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
