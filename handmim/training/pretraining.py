"""Self-supervised pre-training of ``HandMIMForPreTraining`` from a recipe file.

A recipe is one YAML file, one row of the paper's tables::

    name: pretrain-handmim-small
    model: {size: small, drop_path_rate: 0.1}             # see build_network
    pretraining: {method: handmim}                        # fields of HandMIMPreTrainingConfig
    data:                                                 # see pretraining_data.build_images
      - {name: freihand, root: "${FREIHAND}", split: training}
      - {name: crops, root: "${CROPS}"}
    views: {rotation: [0, 150]}                           # fields of views.ViewAugmentation
    masks: {kind: block, ratio: [0.1, 0.5]}               # see masking.MaskGenerator
    training: {batch_size: 1024, learning_rate: 2.0e-3}   # fields of PreTrainingArguments

Run it with ``handmim pretrain RECIPE --out FOLDER``, or for several processes with
``torchrun --nproc-per-node N -m handmim.training.pretraining RECIPE --out FOLDER``; the same command after an
interruption goes on from the last checkpoint, bit for bit. What fine-tuning starts from is in ``FOLDER/release``.
"""

import copy
import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from handmim.atomic_files import atomic_folder
from handmim.backbone_weights import WeightsError, load_backbone_weights
from handmim.configuration_handmim import HandMIMConfig
from handmim.configuration_pretraining_handmim import HandMIMPreTrainingConfig
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.modeling_pretraining_handmim import HandMIMForPreTraining
from handmim.training.datasets.view_pairs import collate_views
from handmim.training.pretraining_data import build_views
from handmim.training.pretraining_trainer import PreTrainer, PreTrainingArguments
from handmim.training.recipe import RecipeError
from handmim.training.runs import arguments_of, read_recipe, release_section, run_as_program, train

logger = logging.get_logger(__name__)

REQUIRED = ("model", "pretraining", "data", "training")
OPTIONAL = ("views", "masks", "release")


# A recipe of this kind with this machine's folders and this run's changes in it; arguments as of `read_recipe`.
prepare_recipe = partial(read_recipe, required=REQUIRED, optional=OPTIONAL)


def pretrain(recipe: dict[str, Any], output_dir: str | os.PathLike, **overrides: Any) -> HandMIMForPreTraining:
    """Pre-train as a recipe says, resuming from the last checkpoint in ``output_dir`` if there is one.

    Args:
        recipe: As :func:`prepare_recipe` returns it.
        output_dir: Checkpoints go here, the recipe as it was run, and the backbone to its folder ``release``.
        **overrides: Fields of ``PreTrainingArguments`` that take precedence over the recipe's.

    Returns:
        The network as it is after the last step.

    Raises:
        RecipeError, DataError, NonFiniteLossError, OutOfMemory: See there.
    """
    arguments = arguments_of(PreTrainingArguments, recipe["training"] | overrides, output_dir)
    release = release_section(recipe)
    model = build_network(recipe["model"], recipe["pretraining"], arguments.seed)
    data = build_views(recipe, model.config, arguments)
    size = model.config.image_size
    trainer = PreTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=collate_views,
        processing_class=HandMIMImageProcessor(size={"height": size, "width": size}),
    )
    train(trainer, recipe)
    if trainer.is_world_process_zero():
        save_release(trainer, Path(output_dir) / "release", release["dtype"])
    return model


def build_network(section: Mapping[str, Any], pretraining: Mapping[str, Any], seed: int) -> HandMIMForPreTraining:
    """The network of a recipe, with new weights that depend on the seed alone.

    Args:
        section: `model` of the recipe: size (`HandMIMConfig.from_size`), further fields of `HandMIMConfig`, and
            timm: weights for teacher and student to start from, see `backbone_weights`; the paper starts at random.
        pretraining: method (`HandMIMPreTrainingConfig.from_method`), by default HandMIM, and further fields.
        seed: Of new weights.

    Raises:
        RecipeError: An unknown field, or numbers that do not fit together.
    """
    section, options = _given("model", section, HandMIMConfig, {"size", "timm"}), dict(pretraining or {})
    options = _given("pretraining", options, HandMIMPreTrainingConfig, {"method"})
    timm_weights, size = section.pop("timm", None), section.pop("size", "small")
    torch.manual_seed(seed)
    try:
        method = HandMIMPreTrainingConfig.from_method(options.pop("method", "handmim"), **options)
        model = HandMIMForPreTraining(HandMIMConfig.from_size(size, pretraining_config=method, **section))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"model and pretraining: {' '.join(str(error).split())}") from error
    if timm_weights is not None:
        try:
            logger.warning(str(load_backbone_weights(model.backbone, timm_weights)))
        except WeightsError as error:
            raise RecipeError(f"model.timm: {error}") from error
        with torch.no_grad():
            for teacher, student in model.teacher_pairs():
                student.copy_(teacher)
    return model


def _given(where: str, section: Mapping[str, Any], config: type, further: set[str]) -> dict[str, Any]:
    """The values of a section that are not null; its names are checked, since configurations take unknown ones."""
    known = {field.name for field in dataclasses.fields(config)} | further
    unknown = section.keys() - known
    if unknown:
        raise RecipeError(f"{where} has unknown fields {', '.join(sorted(unknown))}; see {config.__name__}")
    return {name: value for name, value in section.items() if value is not None}


def save_release(trainer: PreTrainer, folder: Path, dtype: torch.dtype) -> None:
    """Write the backbone that fine-tuning loads: with a teacher the teacher's (see `HandMIMForPreTraining`).

    Args:
        trainer: After its run.
        folder: Where config, weights and image processor go.
        dtype: Of the weights.
    """
    backbone = trainer.accelerator.unwrap_model(trainer.model).backbone
    state = {name: value.to(dtype) for name, value in backbone.state_dict().items() if "mask_token" not in name}
    config = backbone.config
    backbone.config = copy.deepcopy(config)
    backbone.config.drop_path_rate = 0.0  # of pre-training; fine-tuning sets its own
    try:
        with atomic_folder(folder) as whole:
            backbone.save_pretrained(whole, state_dict=state)
            trainer.processing_class.save_pretrained(whole)
    finally:
        backbone.config = config


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module, for torchrun."""
    return run_as_program("handmim.training.pretraining", __doc__.split("\n")[0], prepare_recipe, pretrain, argv)


if __name__ == "__main__":
    sys.exit(main())
