"""Parts of a network that stay as they are while the others learn."""

from types import MethodType
from typing import Any

from torch import nn

from ..hand_pretrained import HandPreTrainedModel
from ..modeling_handmim import HandMIMForMeshEstimation
from .recipe import RecipeError


def freeze_stem(model: HandPreTrainedModel, parts: int) -> None:
    """Keep the first parts of a convolutional stem as they are, also its batch norm's averages.

    What was learned from photographs stays what it is where all else learns from rendered pictures (Hinterstoisser et
    al. 2018, "On pre-trained image features and synthetic images for deep learning"), and the dearest gradients, those
    of the largest maps, are not computed.

    Args:
        model: Whose parameters get `requires_grad=False`.
        parts: How many, from the first, of `model.stem_layers`: with stem "efficientnet" the first
            convolution and five stages.

    Raises:
        RecipeError: The stem has fewer, or is no convolutional one.
    """
    _check_number(parts, len(model.stem_layers), "frozen_stem", " with this stem")
    for layer in model.stem_layers[:parts]:
        stay_in_evaluation(layer.requires_grad_(False))


def freeze_blocks(model: HandMIMForMeshEstimation, blocks: int) -> None:
    """Keep the first blocks of the backbone as they are (section 3.3, figure 7), and what comes before them.

    With one block or more the patch embedding, class token and position embedding are frozen too, as in MAE's partial
    fine-tuning (He et al. 2022, section 4.3). With all blocks the last norm still learns. Frozen modules stay in
    evaluation mode whatever `model.train()` says: stochastic depth and batch norm must not change them.

    Args:
        model: Whose parameters get `requires_grad=False`.
        blocks: How many, from the first.

    Raises:
        RecipeError: There are fewer blocks.
    """
    encoder = model.backbone.encoder
    depth = len(encoder.blocks)
    _check_number(blocks, depth, "frozen_blocks")
    if blocks == 0:
        return
    encoder.cls_token.requires_grad_(False)
    encoder.pos_embed.requires_grad_(False)
    for module in (encoder.patch_embed, *encoder.blocks[:blocks]):
        stay_in_evaluation(module.requires_grad_(False))


def _check_number(value: Any, most: int, field: str, where: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RecipeError(f"model.{field} must be a number from 0 to {most}{where}, got {value!r}")


def freeze_other_parts(model: HandPreTrainedModel, parts: list[str]) -> None:
    """Keep a model as it is but for some of its parts, which learn several times as many samples a minute then.

    The others stay in evaluation mode: the running averages of batch norm must not move.

    Args:
        model: Whose other parameters get `requires_grad=False`.
        parts: Names of those that learn: of "backbone", "upsample", "initial", "rectifiers", "heatmap", "score" of
            HandMIM, of "backbone", "regressor", "score" of HIU-DMTL.

    Raises:
        RecipeError: The model has no such part with weights, or none is named.
    """
    known = {name: part for name, part in model.named_children() if next(part.parameters(), None) is not None}
    if not isinstance(parts, list) or not parts or not all(isinstance(name, str) and name in known for name in parts):
        raise RecipeError(f"model.trained_parts must be some of {', '.join(known)}, got {parts!r}")
    for name, part in known.items():
        if name not in parts:
            stay_in_evaluation(part.requires_grad_(False))


def stay_in_evaluation(module: nn.Module) -> None:
    """Evaluation mode for good: later calls of `train` leave the module as it is."""
    module.eval()
    module.train = MethodType(lambda self, mode=True: self, module)  # type: ignore[method-assign]
