"""EfficientNet-Lite0, as far as it is needed, as a row of layers.

Tan and Le, "EfficientNet" (ICML 2019), in the form without squeezing and swish that Google published for phones as
"Lite". It can start from what it learned on ImageNet (`efficientnet_weights`).
"""

from timm.models.efficientnet import tf_efficientnet_lite0
from torch import nn

# Of the first convolution and the seven stages: channels that come out, and the stride over all.
WIDTHS = (32, 16, 24, 40, 80, 112, 192, 320)
STRIDES = (2, 2, 4, 8, 16, 16, 32, 32)


def efficientnet_layers(num_channels: int, stages: int) -> nn.Sequential:
    """The first convolution with its norm, then the first stages.

    Args:
        num_channels: Of the input.
        stages: How many of the seven.

    Returns:
        1 + `stages` layers on maps (B, C, h, w); `WIDTHS` and `STRIDES` say what comes out of each.
    """
    network = tf_efficientnet_lite0(in_chans=num_channels, num_classes=0)
    return nn.Sequential(nn.Sequential(network.conv_stem, network.bn1), *network.blocks[:stages])
