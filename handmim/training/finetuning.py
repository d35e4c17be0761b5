"""Supervised training of ``HandMIMForMeshEstimation`` from a recipe file.

A recipe is one YAML file, one published checkpoint or number::

    name: table1-handmim-small
    model: {pretrained: "${HANDMIM_SMALL}", hand_model: mano}       # see starting_points.build_model
    data:                                                           # see data_sections.build_entry
      - {name: freihand, root: "${FREIHAND}", split: training}
    validation: {name: freihand, root: "${FREIHAND}", split: evaluation}
    augmentation: {rotation: 90}                                    # see augmentation.Augmentation
    training: {batch_size: 128, learning_rate: 4.0e-5, ...}         # fields of HandMIMTrainingArguments
    release: {dtype: float16}

``base: NAME`` takes another recipe and changes it. ``batch_size`` is that of a step over all processes. Run it with
``handmim finetune RECIPE --out FOLDER``, or for several processes with
``torchrun --nproc-per-node N -m handmim.training.finetuning RECIPE --out FOLDER``; the same command after an
interruption goes on from the last checkpoint, bit for bit.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from handmim.errors import HandMIMError
from handmim.geometry import axis_angle_to_matrix
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.training.commands import add_run_options, roots_of
from handmim.training.data_sections import build_training_data, build_validation_data
from handmim.training.datasets.items import collate_hands
from handmim.training.recipe import RecipeError, apply_roots, apply_settings, expand_variables, load_recipe
from handmim.training.starting_points import build_model
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments, last_checkpoint

NOTES = ("description", "commands")
SECTIONS = {
    *NOTES, "name", "expected", "model", "data", "validation", "augmentation", "epoch_samples", "training", "release",
}  # fmt: skip


def prepare_recipe(
    path: str | os.PathLike, roots: Mapping[str, str] | None = None, settings: Iterable[str] = ()
) -> dict[str, Any]:
    """Read a recipe and put this machine's folders and this run's changes into it.

    Args:
        path: A YAML file, or the name of a recipe in the package.
        roots: Folder of each data set by name (``--data``).
        settings: Changes of single values (``--set``).

    Raises:
        FileNotFoundError, RecipeError: See `recipe`.
    """
    recipe = load_recipe(path)
    apply_settings(recipe, settings)
    apply_roots(recipe, roots or {})
    unknown = recipe.keys() - SECTIONS
    if unknown or not {"model", "data", "training"} <= recipe.keys():
        raise RecipeError(
            f"{path} must have the sections model, data and training, and of {', '.join(sorted(SECTIONS))} only; "
            f"got {', '.join(sorted(recipe))}"
        )
    return expand_variables({name: section for name, section in recipe.items() if name not in NOTES})


def finetune(recipe: dict[str, Any], output_dir: str | os.PathLike, **overrides: Any) -> HandMIMForMeshEstimation:
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
    arguments = training_arguments(recipe["training"] | overrides, output_dir)
    model = build_model(recipe["model"], arguments.seed)
    check_hand_model(model)
    data = build_training_data(recipe, model, arguments.seed)
    validation = build_validation_data(recipe.get("validation"), model)
    size = model.config.image_size
    trainer = HandMIMTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=validation,
        data_collator=collate_hands,
        processing_class=HandMIMImageProcessor(size={"height": size, "width": size}),
    )
    if trainer.is_world_process_zero():
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        (Path(output_dir) / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    if validation is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics, combined=False)
    if trainer.is_world_process_zero():
        save_release(trainer, Path(output_dir) / "release", recipe.get("release") or {})
    return model


def training_arguments(section: Mapping[str, Any], output_dir: str | os.PathLike) -> HandMIMTrainingArguments:
    """The `training` section as arguments; `batch_size` is divided among processes and accumulation steps.

    Raises:
        RecipeError: An unknown or impossible value.
    """
    section = dict(section)
    fields = {field.name for field in dataclasses.fields(HandMIMTrainingArguments) if field.init}
    unknown = section.keys() - fields - {"batch_size"}
    if unknown:
        raise RecipeError(f"training has unknown fields {', '.join(sorted(unknown))}; see HandMIMTrainingArguments")
    total = section.pop("batch_size", None)
    if total is not None:
        shares = int(os.environ.get("WORLD_SIZE", "1")) * int(section.get("gradient_accumulation_steps", 1))
        if not isinstance(total, int) or total < 1 or total % shares:
            raise RecipeError(
                f"training.batch_size must be a multiple of {shares}, processes x accumulation, got {total}"
            )
        section["per_device_train_batch_size"] = total // shares
    if "LOCAL_RANK" not in os.environ:  # one process: transformers asks for a process group if it finds a backend
        section.pop("ddp_backend", None)
    try:
        return HandMIMTrainingArguments(output_dir=str(output_dir), **section)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {error}") from error


def check_hand_model(model: HandMIMForMeshEstimation) -> None:
    """Pose the hand once: a missing MANO file is told before any data is read."""
    flat = axis_angle_to_matrix(torch.zeros(1, 16, 3))
    model.hand_model(flat[:, 0], flat[:, 1:], torch.zeros(1, 10))


def save_release(trainer: HandMIMTrainer, folder: Path, section: dict[str, Any]) -> None:
    """Write what ``from_pretrained`` loads: config, processor, and the averaged weights (the last ones without)."""
    trainer.save_weights(folder, getattr(torch, section.get("dtype", "float32")))
    trainer.processing_class.save_pretrained(folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module, for torchrun."""
    parser = argparse.ArgumentParser(prog="python -m handmim.training.finetuning", description=__doc__.split("\n")[0])
    add_run_options(parser)
    options = parser.parse_args(argv)
    try:
        finetune(prepare_recipe(options.recipe, roots_of(options), options.settings), options.out)
    except (HandMIMError, OSError, ValueError) as error:
        if options.debug:
            raise
        print(f"handmim: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
