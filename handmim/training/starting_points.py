"""What a fine-tuning run starts from: random weights, a checkpoint, a pre-trained backbone, or a ViT of timm's.

A recipe trains HandMIM unless its model says `family: hiu-dmtl`, or starts from a checkpoint of that family.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..backbone_weights import WeightsError, load_backbone_weights
from ..checkpoints import checkpoint_source, load_processor
from ..configuration_handmim import HandMIMConfig
from ..configuration_hiu_dmtl import HIUDMTLConfig
from ..efficientnet_weights import load_efficientnet
from ..hand_pretrained import HandPreTrainedModel
from ..hub_errors import checkpoint_errors, commit_hash
from ..image_processing_handmim import HandMIMImageProcessor
from ..modeling_handmim import HandMIMForMeshEstimation
from ..modeling_hiu_dmtl import HIUDMTLForHandUnderstanding
from .freezing import freeze_blocks, freeze_other_parts, freeze_stem
from .recipe import RecipeError, did_you_mean

logger = logging.get_logger(__name__)

STARTS = ("size", "checkpoint", "pretrained")
OPTIONS = ("family", "revision", "timm", "frozen_stem", "frozen_blocks", "trained_parts", "hand_model_path")


class Family(NamedTuple):
    """What a recipe of one model family builds.

    Attributes:
        config, model: Its classes.
        not_here: Parts of `model` that only recipes of the other family have.
    """

    config: type[PreTrainedConfig]
    model: type[HandPreTrainedModel]
    not_here: tuple[str, ...] = ()


HIU_DMTL = "hiu-dmtl"
FAMILIES = {
    "handmim": Family(HandMIMConfig, HandMIMForMeshEstimation),
    HIU_DMTL: Family(HIUDMTLConfig, HIUDMTLForHandUnderstanding, ("size", "pretrained", "frozen_blocks")),
}


def build_model(section: dict[str, Any], seed: int) -> HandPreTrainedModel:
    """The model of a recipe.

    Args:
        section: `model` of the recipe. Of `family: hiu-dmtl`: fields of `HIUDMTLConfig`, of which `num_stacks` says the
            size, perhaps with any but size, pretrained and frozen_blocks below. Otherwise one of
            size: a new network (`HandMIMConfig.from_size`);
            checkpoint: a mesh model, folder or Hub name, or the name of the one in the package;
            pretrained: a pre-trained backbone, folder or Hub name: the head is new;
            and any of
            revision: branch, tag or commit hash of a checkpoint or pretrained backbone on the Hub;
            timm: weights for the backbone of a new network, of timm, MAE, DINO, iBOT or DINOv2: a file, "KIND:FILE", or
                a name that timm knows and loads (`backbone_weights`); with `stem: efficientnet` of EfficientNet-Lite0,
                which are the stem's, see `load_efficientnet_start`; of HIU-DMTL for that stem alone;
            frozen_stem: see `freeze_stem`;
            frozen_blocks: see `freeze_blocks`;
            trained_parts: names of the model's parts, such as [score], which alone learn, see `freeze_other_parts`; one
                but the backbone of which the checkpoint has no weights, or has it in another form, starts from random
                ones; of either family;
            hand_model_path: of MANO's file, for `hand_model: mano`;
            further fields of `HandMIMConfig`; with `image_size` a checkpoint goes on with crops of that size.
        seed: Of new weights, which depend on nothing else.

    Raises:
        RecipeError: An unknown field, or weights that do not fit.
        ModelError: The checkpoint cannot be had, or is damaged.
    """
    section = {name: value for name, value in section.items() if value is not None}
    family = FAMILIES[family_of(section)]
    _check_fields(section, family)
    starts = [name for name in STARTS if name in section]
    section.pop("family", None)
    hub_options = _hub_options(section)
    section.pop("revision", None)
    timm_weights, frozen = section.pop("timm", None), section.pop("frozen_blocks", None)
    frozen_stem = section.pop("frozen_stem", None)
    trained_parts = section.pop("trained_parts", None)
    hand_model_path = section.pop("hand_model_path", None)
    torch.manual_seed(seed)
    if starts in ([], ["size"]):
        build = family.config.from_size if starts else family.config
        try:
            config = build(**section)
        except (ValueError, TypeError, StrictDataclassError) as error:
            raise RecipeError(f"model: {' '.join(str(error).split())}") from error
        model = family.model(config, hand_model_path=hand_model_path)
    else:
        source = section.pop(starts[0])
        if timm_weights is not None:
            raise RecipeError(f"model.timm is for a new network (size), not for one with {starts[0]}")
        changes = section | {"hand_model_path": hand_model_path}
        fresh = trained_parts if isinstance(trained_parts, list) else []
        model = _load(family, checkpoint_source(source), starts[0] == "pretrained", changes, hub_options, fresh)
    if timm_weights is not None:
        _load_timm_weights(model, timm_weights)
    if frozen_stem is not None:
        freeze_stem(model, frozen_stem)
    if frozen is not None:
        freeze_blocks(model, frozen)
    if trained_parts is not None:
        freeze_other_parts(model, trained_parts)
    return model


def family_of(section: dict[str, Any]) -> str:
    """The key of `FAMILIES`: what `model` of a recipe says, or what its checkpoint is.

    Raises:
        RecipeError: There is no such family.
    """
    name, found = section.get("family"), None
    if name not in (None, *FAMILIES):
        raise RecipeError(f"model.family must be one of {', '.join(FAMILIES)}, got {name!r}")
    source = section.get("checkpoint")
    if source is not None and not section.keys() & {"size", "pretrained"}:  # more starts than one are refused later
        options = _hub_options(section)
        with checkpoint_errors(source, **options):
            config = PreTrainedConfig.get_config_dict(checkpoint_source(source), **options)[0]
        found = HIU_DMTL if config.get("model_type") == HIUDMTLConfig.model_type else "handmim"
        if name not in (None, found):
            raise RecipeError(f"model.family is {name}, but the checkpoint {source} is of the family {found}")
    return name or found or "handmim"


def starting_processor(section: dict[str, Any], image_size: int) -> HandMIMImageProcessor:
    """The image processor of the mesh model that `model` of a recipe goes on from; one of our own without.

    Args:
        section: As of `build_model`.
        image_size: Of the crop that the network takes, pixels; the processor may have another.

    Raises:
        ModelError: The checkpoint cannot be had, or is damaged.
    """
    if section.get("checkpoint") is None:
        return HandMIMImageProcessor(size=image_size)
    return load_processor(checkpoint_source(section["checkpoint"]), image_size, **_hub_options(section))


def _check_fields(section: dict[str, Any], family: Family) -> None:
    """Fields that the family has, and one start.

    Raises:
        RecipeError: Others, or more.
    """
    starts = [name for name in STARTS if name in section]
    foreign = [name for name in family.not_here if name in section]
    if foreign:
        raise RecipeError(
            f"model has {', '.join(foreign)}, which {HIU_DMTL} has not: give num_stacks and other fields of "
            f"{family.config.__name__}, or a checkpoint"
        )
    if len(starts) != 1 and not (family.not_here and not starts):
        raise RecipeError(f"model must have one of {', '.join(STARTS)}, got {', '.join(starts) or 'none'}")
    fields = {field.name for field in dataclasses.fields(family.config)}
    unknown = section.keys() - fields - {*STARTS, *OPTIONS}
    if unknown:
        names = ", ".join(did_you_mean(name, sorted({*fields, *STARTS, *OPTIONS})) for name in sorted(unknown))
        raise RecipeError(f"model has unknown fields {names}; {family.config.__name__} lists those there are")


def _hub_options(section: dict[str, Any]) -> dict[str, str]:
    """What loaders need to find the version that `model` of a recipe names.

    Raises:
        RecipeError: There is nothing on the Hub that it could be of.
    """
    if "revision" not in section:
        return {}
    revision = section["revision"]
    source = section.get("checkpoint", section.get("pretrained"))
    if not isinstance(revision, str):
        raise RecipeError(f"model.revision must be a branch, tag or commit hash; write it in quotes, got {revision!r}")
    if source is None or Path(checkpoint_source(source)).exists():
        raise RecipeError(f"model.revision is for a checkpoint on the Hub, got {revision!r} for {source or 'none'}")
    return {"revision": revision}


def _load(
    family: Family,
    source: str | Path,
    backbone_only: bool,
    changes: dict[str, Any],
    hub_options: dict[str, str],
    fresh: list[str],
) -> HandPreTrainedModel:
    with checkpoint_errors(source, **hub_options):
        config = family.config.from_pretrained(source, **hub_options)
    if commit := commit_hash(source, **hub_options):  # the weights are of the same
        hub_options = {"revision": commit}
    kinds = config.architectures or []
    if "loss_weights" in changes:  # from_pretrained replaces fields as a whole, unchecked
        weights = config.loss_weights | changes["loss_weights"]
        changes = changes | {"loss_weights": family.config(loss_weights=weights).loss_weights}
    if not backbone_only and family.model.__name__ not in kinds:
        found = ", ".join(kinds) or "backbone"
        if family.not_here:
            raise RecipeError(f"{source} is a {found}; to go on with {HIU_DMTL} takes a {family.model.__name__}")
        raise RecipeError(f"{source} lacks a mesh head, it is a {found}: give it as model.pretrained")
    with checkpoint_errors(source, **hub_options):
        model, info = family.model.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **changes, **hub_options
        )
    # transformers leaves a head that is missing as a whole out of its list of missing keys
    missing = sorted(info["missing_keys"] - _absent_parts(model, info["missing_keys"], fresh))
    if backbone_only:
        missing = [name for name in missing if name.startswith("backbone.")]
    faults = missing or sorted(str(fault) for fault in info["mismatched_keys"])
    if faults:
        word = "lacks" if missing else "has other shapes of"
        raise RecipeError(f"{source} {word} {len(faults)} weights of this model, {', '.join(faults[:3])}, ...")
    return model


def _absent_parts(model: HandPreTrainedModel, missing: set[str], parts: list[str]) -> set[str]:
    """Weights of those parts of which a checkpoint has none, which may start anew; one that is cut is damaged."""
    absent: set[str] = set()
    for part in parts:
        own = {name for name in model.state_dict() if name.startswith(f"{part}.")}
        absent |= own if own <= missing and part != "backbone" else set()
    return absent


def load_efficientnet_start(layers: nn.Sequential, source: str) -> None:
    """Put what EfficientNet-Lite0 has learned into layers of it.

    Args:
        layers: Of `efficientnet.efficientnet_layers`.
        source: A file, or "timm" (`efficientnet_weights`); or a checkpoint whose stem or backbone it is: a folder, or
            the name of one in the package.

    Raises:
        WeightsError: The weights are not of these layers, which are left as they were.
    """
    folder = Path(checkpoint_source(source))
    load_efficientnet(layers, folder / SAFE_WEIGHTS_NAME if folder.is_dir() else source)


def _load_timm_weights(model: HandPreTrainedModel, source: str) -> None:
    try:
        if model.config.stem == "efficientnet":
            load_efficientnet_start(model.stem_layers, source)
        elif isinstance(model, HIUDMTLForHandUnderstanding):
            raise RecipeError(f"model.timm is for stem: efficientnet, not for {model.config.stem}")
        else:
            logger.warning(str(load_backbone_weights(model.backbone, source)))
    except WeightsError as error:
        raise RecipeError(f"model.timm: {error}") from error
