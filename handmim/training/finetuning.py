"""Supervised training of ``HandMIMForMeshEstimation`` from a recipe file.

A recipe is one YAML file, one published checkpoint or number::

    name: handmim-tiny-open
    model: {size: tiny, image_size: 128, stem: residual}      # or {checkpoint: folder or Hub name}
    data: {kind: synthetic, samples: 256000, seed: 1}
    training: {learning_rate: 1.0e-3, ...}                # fields of HandMIMTrainingArguments
    release: {dtype: float16}

Run it with ``python -m handmim.training.finetuning RECIPE --out FOLDER``, or under ``torchrun`` for several processes;
the same command after an interruption goes on from the last checkpoint.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.trainer_utils import get_last_checkpoint

from handmim.configuration_handmim import HandMIMConfig
from handmim.image_processing_handmim import HandMIMImageProcessor
from handmim.modeling_handmim import HandMIMForMeshEstimation
from handmim.training.datasets.synthetic import SyntheticHands, already_collated
from handmim.training.trainer import HandMIMTrainer, HandMIMTrainingArguments

RECIPES = Path(__file__).parent / "recipes"
SECTIONS = {"name", "description", "model", "data", "training", "release"}


def load_recipe(path: str | os.PathLike) -> dict[str, Any]:
    """Read a recipe by path, or by the name of one that comes with the package.

    Raises:
        FileNotFoundError: Neither a file nor a known name; the message lists the names.
        ValueError: Not a mapping with the sections this module knows.
    """
    path = Path(path)
    if not path.is_file():
        packaged = RECIPES / f"{path.name}.yaml"
        if not packaged.is_file():
            known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
            raise FileNotFoundError(f"no recipe {path}: give a file, or one of {known}")
        path = packaged
    recipe = yaml.safe_load(path.read_text())
    if not isinstance(recipe, dict) or not {"model", "data", "training"} <= recipe.keys() <= SECTIONS:
        raise ValueError(f"{path} must be a mapping with model, data, training, and of {sorted(SECTIONS)} only")
    return recipe


def build_model(section: dict[str, Any], seed: int) -> HandMIMForMeshEstimation:
    """A fresh model from a size and changes to its config, or the weights of a checkpoint."""
    section = dict(section)
    if "checkpoint" in section:
        return HandMIMForMeshEstimation.from_pretrained(section.pop("checkpoint"), **section)
    torch.manual_seed(seed)  # the initial weights are a function of the recipe's seed alone
    return HandMIMForMeshEstimation(HandMIMConfig.from_size(section.pop("size"), **section))


def build_dataset(section: dict[str, Any], size: int) -> SyntheticHands:
    """The training set of a recipe, as crops of ``size`` pixels unless the recipe gives another (smaller: faster)."""
    section = dict(section)
    kind = section.pop("kind", None)
    if kind != "synthetic":
        raise ValueError(f"data.kind must be 'synthetic', got {kind!r}")
    return SyntheticHands(section.pop("samples"), size=section.pop("size", size), **section)


def finetune(recipe: dict[str, Any], output_dir: str | os.PathLike, **overrides: Any) -> HandMIMForMeshEstimation:
    """Train as a recipe says, resuming from the last checkpoint in ``output_dir`` if there is one.

    Args:
        recipe: As :func:`load_recipe` returns it.
        output_dir: Checkpoints go here; the released model goes to its folder ``release``.
        **overrides: Fields of ``HandMIMTrainingArguments`` that take precedence over the recipe's.

    Returns:
        The trained model, with the weights of the last step.
    """
    arguments = HandMIMTrainingArguments(output_dir=str(output_dir), **(recipe["training"] | overrides))
    model = build_model(recipe["model"], arguments.seed)
    processor = HandMIMImageProcessor(size={"height": model.config.image_size, "width": model.config.image_size})
    trainer = HandMIMTrainer(
        model=model,
        args=arguments,
        train_dataset=build_dataset(recipe["data"], model.config.image_size),
        data_collator=already_collated,
        processing_class=processor,
    )
    last = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
    trainer.train(resume_from_checkpoint=last)
    if trainer.is_world_process_zero():
        save_release(trainer, Path(output_dir) / "release", recipe.get("release", {}))
    return model


def save_release(trainer: HandMIMTrainer, folder: Path, section: dict[str, Any]) -> None:
    """Write what ``from_pretrained`` loads: config, processor, and the averaged weights (the last ones without)."""
    dtype = getattr(torch, section.get("dtype", "float32"))
    if trainer.average is not None:
        trainer.save_average(folder, dtype=dtype)
    else:
        trainer.accelerator.unwrap_model(trainer.model).to(dtype).save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m handmim.training.finetuning", description=__doc__.split("\n")[0])
    parser.add_argument("recipe", help="a YAML file, or the name of a recipe in the package")
    parser.add_argument("--out", required=True, help="folder for checkpoints and the released model")
    options = parser.parse_args()
    finetune(load_recipe(options.recipe), options.out)


if __name__ == "__main__":
    main()
