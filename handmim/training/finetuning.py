"""Training of mesh models, ``HandMIMForMeshEstimation`` or ``HIUDMTLForHandUnderstanding``, from a recipe file.

A recipe is one YAML file, one published checkpoint or number::

    name: table1-handmim-small
    model: {pretrained: "${HANDMIM_SMALL}", hand_model: mano}       # see starting_points.build_model
    data:                                                           # see data_sections.build_entry
      - {name: freihand, root: "${FREIHAND}", split: training}
    validation: {name: freihand, root: "${FREIHAND}", split: evaluation}
    augmentation: {rotation: 90}                                    # see augmentation.Augmentation
    training: {batch_size: 128, learning_rate: 4.0e-5, ...}         # fields of HandMIMTrainingArguments
    release: {dtype: float16}                                       # see save_release

``base: NAME`` takes another recipe and changes it. ``batch_size`` is that of a step over all processes. Run it with
``handmim finetune RECIPE --out FOLDER``, or for several processes with
``torchrun --nproc-per-node N -m handmim.training.finetuning RECIPE --out FOLDER``; the same command after an
interruption goes on from the last checkpoint, bit for bit.
"""

import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from handmim.atomic_files import atomic_folder
from handmim.geometry import axis_angle_to_matrix
from handmim.hand_pretrained import HandPreTrainedModel
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.training.data_sections import build_training_data, build_validation_data
from handmim.training.datasets.items import collate_hands
from handmim.training.recipe import RecipeError
from handmim.training.runs import arguments_of, read_recipe, release_section, run_as_program, train
from handmim.training.starting_points import build_model, starting_processor
from handmim.training.trainer import AveragingTrainer, HandMIMTrainer, HandMIMTrainingArguments

REQUIRED = ("model", "data", "training")
OPTIONAL = ("validation", "augmentation", "epoch_samples", "release")


# A recipe of this kind with this machine's folders and this run's changes in it; arguments as of `read_recipe`.
prepare_recipe = partial(read_recipe, required=REQUIRED, optional=OPTIONAL)


def finetune(recipe: dict[str, Any], output_dir: str | os.PathLike, **overrides: Any) -> HandPreTrainedModel:
    """Train as a recipe says, resuming from the last checkpoint in ``output_dir`` if there is one.

    Everything that can be wrong with model and data is looked at before the first step.

    Args:
        recipe: As :func:`prepare_recipe` returns it.
        output_dir: Checkpoints go here, the recipe as it was run, and the released model to its folder ``release``.
        **overrides: Fields of ``HandMIMTrainingArguments`` that take precedence over the recipe's.

    Returns:
        The trained model, with the weights of the last step (or the best, with ``load_best_model_at_end``).

    Raises:
        RecipeError, DataError, NonFiniteLossError: See there.
    """
    arguments = arguments_of(HandMIMTrainingArguments, recipe["training"] | overrides, output_dir)
    release = release_section(recipe, "box_scale")
    model = build_model(recipe["model"], arguments.seed)
    check_hand_model(model)
    data = build_training_data(recipe, model, arguments.seed, arguments.rendering_place)
    validation = build_validation_data(recipe.get("validation"), model)
    trainer = HandMIMTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collate_hands,
        processing_class=build_processor(recipe["model"], model.config.image_size, release),
    )
    train(trainer, recipe)
    if trainer.is_world_process_zero():  # first: what goes wrong in the validation should not cost what was learned
        save_release(trainer, Path(output_dir) / "release", release["dtype"])
    if validation is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics, combined=False)
    return model


def build_processor(section: dict[str, Any], image_size: int, release: dict[str, Any]) -> HandMIMImageProcessor:
    """The image processor that is released with a model.

    Args:
        section: `model` of the recipe: what goes on from a checkpoint keeps its box_scale.
        image_size: Side of the model's crops, pixels.
        release: See `release_section`; perhaps with another box_scale.

    Raises:
        RecipeError: A box scale that is no positive number.
    """
    size = {"height": image_size, "width": image_size}
    scale = release["box_scale"] if "box_scale" in release else starting_processor(section, image_size).box_scale
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise RecipeError(f"release.box_scale must be a positive number, got {scale!r}")
    return HandMIMImageProcessor(size=size, box_scale=float(scale))


def check_hand_model(model: HandPreTrainedModel) -> None:
    """Pose the hand once, if the model has one: a missing MANO file is told before any data is read."""
    if not hasattr(model, "hand_model"):
        return
    flat = axis_angle_to_matrix(torch.zeros(1, 16, 3))
    model.hand_model(flat[:, 0], flat[:, 1:], torch.zeros(1, 10))


def save_release(trainer: AveragingTrainer, folder: Path, dtype: torch.dtype) -> None:
    """Write what ``from_pretrained`` loads: config, processor, and the averaged weights (the last ones without).

    Args:
        trainer: After training.
        folder: Where to; written whole or not at all.
        dtype: Of the weights.
    """
    with atomic_folder(folder) as whole:
        trainer.save_weights(whole, dtype)
        trainer.processing_class.save_pretrained(whole)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module, for torchrun."""
    return run_as_program("handmim.training.finetuning", __doc__.split("\n")[0], prepare_recipe, finetune, argv)


if __name__ == "__main__":
    sys.exit(main())
