"""EfficientNet-Lite0, as far as it is needed, as a row of layers.

Tan and Le, "EfficientNet" (ICML 2019), in the form without squeezing and swish that Google published for phones as
"Lite". It can start from what it learned on ImageNet (`efficientnet_weights`).
"""

import torch
from timm.layers import Conv2dSame
from timm.models.efficientnet import tf_efficientnet_lite0
from torch import Tensor, nn

# Of the first convolution and the seven stages: channels that come out, and the stride over all.
WIDTHS = (32, 16, 24, 40, 80, 112, 192, 320)
STRIDES = (2, 2, 4, 8, 16, 16, 32, 32)
# Stages of either family's stem: up to stride 16.
STEM_STAGES = 5


class WeightTypeOnCPU(nn.Module):
    """Mixed into a depthwise convolution: CPUs compute it in the weights' type, whatever autocast says.

    In bfloat16 its gradients take them up to twelve times as long, since oneDNN has no kernel for them.
    """

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h / stride, w / stride)."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.to(self.weight.dtype))


class DepthwiseConv2d(WeightTypeOnCPU, nn.Conv2d):
    """A convolution of each channel alone."""


class DepthwiseConv2dSame(WeightTypeOnCPU, Conv2dSame):
    """The same, padded as TensorFlow does."""


DEPTHWISE = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def efficientnet_layers(num_channels: int, stages: int) -> nn.Sequential:
    """The first convolution with its norm, then the first stages.

    Args:
        num_channels: Of the input.
        stages: How many of the seven.

    Returns:
        1 + `stages` layers on maps (B, C, h, w); `WIDTHS` and `STRIDES` say what comes out of each.
    """
    network = tf_efficientnet_lite0(in_chans=num_channels, num_classes=0)
    layers = nn.Sequential(nn.Sequential(network.conv_stem, network.bn1), *network.blocks[:stages])
    for module in layers.modules():  # the same weights under the same names, computed otherwise
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.__class__ = DEPTHWISE[type(module)]
    return layers
