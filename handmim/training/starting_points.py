"""What a fine-tuning run starts from: random weights, a checkpoint, a pre-trained backbone, or a ViT of timm's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers.utils import logging

from ..backbone_weights import WeightsError, load_backbone_weights
from ..configuration_handmim import HandMIMConfig
from ..hand import EMBEDDED_CHECKPOINT
from ..modeling_handmim import HandMIMForMeshEstimation
from .recipe import RecipeError

logger = logging.get_logger(__name__)

STARTS = ("size", "checkpoint", "pretrained")
OPTIONS = ("timm", "frozen_blocks", "hand_model_path")


def build_model(section: dict[str, Any], seed: int) -> HandMIMForMeshEstimation:
    """The model of a recipe.

    Args:
        section: `model` of the recipe. One of
            size: a new network (`HandMIMConfig.from_size`);
            checkpoint: a mesh model, folder or Hub name, or the name of the one in the package;
            pretrained: a pre-trained backbone, folder or Hub name: the head is new;
            and any of
            timm: weights for the backbone of a new network, of timm, MAE, DINO, iBOT or DINOv2: a file, "KIND:FILE", or
                a name that timm knows and loads (`backbone_weights`);
            frozen_blocks: see `freeze_blocks`;
            hand_model_path: of MANO's file, for `hand_model: mano`;
            further fields of `HandMIMConfig`.
        seed: Of new weights, which depend on nothing else.

    Raises:
        RecipeError: An unknown field, or weights that do not fit.
    """
    section = {name: value for name, value in section.items() if value is not None}
    starts = [name for name in STARTS if name in section]
    if len(starts) != 1:
        raise RecipeError(f"model must have one of {', '.join(STARTS)}, got {', '.join(starts) or 'none'}")
    fields = {field.name for field in dataclasses.fields(HandMIMConfig)}
    unknown = section.keys() - fields - {*STARTS, *OPTIONS}
    if unknown:
        raise RecipeError(f"model has unknown fields {', '.join(sorted(unknown))}; HandMIMConfig lists those there are")
    timm_weights, frozen = section.pop("timm", None), section.pop("frozen_blocks", 0)
    hand_model_path = section.pop("hand_model_path", None)
    torch.manual_seed(seed)
    if starts == ["size"]:
        try:
            config = HandMIMConfig.from_size(section.pop("size"), **section)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise RecipeError(f"model: {' '.join(str(error).split())}") from error
        model = HandMIMForMeshEstimation(config, hand_model_path=hand_model_path)
    else:
        source = section.pop(starts[0])
        if timm_weights is not None:
            raise RecipeError(f"model.timm is for a new network (size), not for one with {starts[0]}")
        if source == EMBEDDED_CHECKPOINT.name and not Path(source).exists():
            source = EMBEDDED_CHECKPOINT
        model = _load(source, starts[0] == "pretrained", section | {"hand_model_path": hand_model_path})
    if timm_weights is not None:
        try:
            report = load_backbone_weights(model.backbone, timm_weights)
        except WeightsError as error:
            raise RecipeError(f"model.timm: {error}") from error
        logger.warning(str(report))
    freeze_blocks(model, frozen)
    return model


def _load(source: str | Path, backbone_only: bool, changes: dict[str, Any]) -> HandMIMForMeshEstimation:
    config = HandMIMConfig.from_pretrained(source)
    kinds = config.architectures or []
    if "loss_weights" in changes:  # from_pretrained replaces fields as a whole, unchecked
        weights = config.loss_weights | changes["loss_weights"]
        changes = changes | {"loss_weights": HandMIMConfig(loss_weights=weights).loss_weights}
    if not backbone_only and HandMIMForMeshEstimation.__name__ not in kinds:
        raise RecipeError(
            f"{source} lacks a mesh head, it is a {', '.join(kinds) or 'backbone'}: give it as model.pretrained"
        )
    model, info = HandMIMForMeshEstimation.from_pretrained(
        source, dtype=torch.float32, output_loading_info=True, **changes
    )
    # transformers leaves a head that is missing as a whole out of its list of missing keys
    missing = sorted(info["missing_keys"])
    if backbone_only:
        missing = [name for name in missing if name.startswith("backbone.")]
    faults = missing or sorted(str(fault) for fault in info["mismatched_keys"])
    if faults:
        word = "lacks" if missing else "has other shapes of"
        raise RecipeError(f"{source} {word} {len(faults)} weights of this model, {', '.join(faults[:3])}, ...")
    return model


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
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 0 <= blocks <= depth:
        raise RecipeError(f"model.frozen_blocks must be a number from 0 to {depth}, got {blocks!r}")
    if blocks == 0:
        return
    encoder.cls_token.requires_grad_(False)
    encoder.pos_embed.requires_grad_(False)
    for module in (encoder.patch_embed, *encoder.blocks[:blocks]):
        stay_in_evaluation(module.requires_grad_(False))


def stay_in_evaluation(module: nn.Module) -> None:
    """Evaluation mode for good: later calls of `train` leave the module as it is."""
    module.eval()
    module.train = MethodType(lambda self, mode=True: self, module)  # type: ignore[method-assign]
