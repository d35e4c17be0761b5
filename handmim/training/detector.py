"""Training of the hand detector, ``HandDetectorForObjectDetection``, from a recipe file.

A recipe is one YAML file, one published checkpoint::

    name: hand-detector-tiny-open
    detector: {image_size: 384, timm: FILE}            # see build_detector
    scenes: {samples: 1000000, size: 384, seed: 1, ...}  # see build_scenes
    photos:                                            # any data set of `handmim data list`, whole pictures of it
      - {name: folder, root: "${HANDS}/phone_gestures", split: train, weight: 2}
    training: {per_device_train_batch_size: 32, ...}   # fields of HandMIMTrainingArguments
    release: {dtype: float16, coarse_size: 192}        # see save_release, and HandDetectorImageProcessor

Run it with ``handmim train-detector RECIPE --out FOLDER``, or for several processes with
``torchrun --nproc-per-node N -m handmim.training.detector RECIPE --out FOLDER``; the same command after an interruption
goes on from the last checkpoint, bit for bit.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from handmim.backbone_weights import WeightsError
from handmim.configuration_hand_detector import HandDetectorConfig
from handmim.efficientnet import STEM_STAGES
from handmim.hub_errors import checkpoint_errors
from handmim.image_processing_hand_detector import HandDetectorImageProcessor
from handmim.images import IMAGE_SUFFIXES
from handmim.modeling_hand_detector import HandDetectorForObjectDetection
from handmim.synthesis.photos import photo_tiles
from handmim.training.datasets.hand_scenes import HandScenes, Photo, collate_scenes, photos_of
from handmim.training.datasets.registry import open_dataset
from handmim.training.finetuning import save_release
from handmim.training.recipe import RecipeError
from handmim.training.runs import arguments_of, read_recipe, release_section, run_as_program, train
from handmim.training.starting_points import load_efficientnet_start
from handmim.training.trainer import AveragingTrainer, HandMIMTrainingArguments

REQUIRED = ("detector", "scenes", "training")
OPTIONAL = ("photos", "release")
# Weights that a new detector may start from, and of how many of its layers; later ones replace earlier ones.
START_LAYERS = {"timm": None, "stem_weights": 1 + STEM_STAGES}


# A recipe of this kind with this machine's folders and this run's changes in it; arguments as of `read_recipe`.
prepare_recipe = partial(read_recipe, required=REQUIRED, optional=OPTIONAL)


def train_detector(
    recipe: dict[str, Any], output_dir: str | os.PathLike, **overrides: Any
) -> HandDetectorForObjectDetection:
    """Train as a recipe says, resuming from the last checkpoint in ``output_dir`` if there is one.

    Args:
        recipe: As :func:`prepare_recipe` returns it.
        output_dir: Checkpoints go here, the recipe as it was run, and the released detector to its folder ``release``.
        **overrides: Fields of ``HandMIMTrainingArguments`` that take precedence over the recipe's.

    Returns:
        The trained detector, with the weights of the last step.

    Raises:
        RecipeError, DataError, NonFiniteLossError: See there.
    """
    arguments = arguments_of(HandMIMTrainingArguments, recipe["training"] | overrides, output_dir)
    model, release = build_detector(recipe["detector"], arguments.seed), release_section(recipe, "coarse_size")
    trainer = AveragingTrainer(
        model=model,
        args=arguments,
        train_dataset=build_scenes(recipe["scenes"], recipe.get("photos") or []),
        data_collator=collate_scenes,
        processing_class=build_processor(model.config.image_size, release),
    )
    train(trainer, recipe)
    if trainer.is_world_process_zero():
        save_release(trainer, Path(output_dir) / "release", release["dtype"])
    return model


def build_processor(image_size: int, release: Mapping[str, Any]) -> HandDetectorImageProcessor:
    """The image processor that is released with a detector.

    Args:
        image_size: Side of the detector's input, pixels.
        release: See `release_section`; perhaps with coarse_size, see `HandDetectorImageProcessor`.

    Raises:
        RecipeError: A coarse size that the detector cannot see at.
    """
    coarse = release.get("coarse_size")
    if coarse is not None and (isinstance(coarse, bool) or not isinstance(coarse, int) or coarse < 32 or coarse % 32):
        raise RecipeError(f"release.coarse_size must be a multiple of 32, got {coarse!r}")
    return HandDetectorImageProcessor(size={"height": image_size, "width": image_size}, coarse_size=coarse)


def build_detector(section: Mapping[str, Any], seed: int) -> HandDetectorForObjectDetection:
    """A new detector, or one to go on from.

    Args:
        section: `detector` of the recipe: fields of `HandDetectorConfig`, and perhaps `checkpoint`, folder or Hub name
            of a detector; or, for a new one, `timm`, weights of EfficientNet-Lite0, and `stem_weights`, those of its
            layers up to stride 16, which replace the former (`load_efficientnet_start`).
        seed: Of new weights, which depend on nothing else.

    Raises:
        RecipeError: An unknown field or an impossible value.
        ModelError: The checkpoint cannot be had, or is damaged.
    """
    fields = {name: value for name, value in section.items() if value is not None}
    checkpoint = fields.pop("checkpoint", None)
    weights = {name: fields.pop(name) for name in START_LAYERS if name in fields}
    torch.manual_seed(seed)
    if checkpoint is not None:
        if weights:
            names = ", ".join(f"detector.{name}" for name in weights)
            raise RecipeError(f"{names} is for a new detector, not for one with the checkpoint {checkpoint}")
        with checkpoint_errors(checkpoint):
            return HandDetectorForObjectDetection.from_pretrained(checkpoint, **fields)
    unknown = fields.keys() - HandDetectorConfig().to_dict().keys()
    if unknown:
        raise RecipeError(f"detector has unknown fields {', '.join(sorted(unknown))}; see HandDetectorConfig")
    try:
        model = HandDetectorForObjectDetection(HandDetectorConfig(**fields))
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"detector: {' '.join(str(error).split())}") from error
    for name, source in weights.items():
        try:
            load_efficientnet_start(model.backbone.layers[: START_LAYERS[name]], source)
        except WeightsError as error:
            raise RecipeError(f"detector.{name}: {error}") from error
    return model


def build_scenes(section: Mapping[str, Any], photos: Sequence[Mapping[str, Any]]) -> HandScenes:
    """The scenes of a run.

    Args:
        section: `scenes` of the recipe: samples, size, seed, and perhaps photo_share, grids, variety (see
            `HandScenes`), and background_photos, a folder of photos without hands: shown behind rendered hands.
        photos: `photos` of the recipe: entries with name, root and perhaps split and weight (of all or of none) of a
            data set whose samples are all hands in its pictures, or `no_hands: FOLDER` (and weight) for photos without
            hands, anywhere below the folder.

    Raises:
        RecipeError, DataError: Anything wrong, by entry.
    """
    options = dict(section)
    background = options.pop("background_photos", None)
    weights = [entry.get("weight") for entry in photos]
    if len({weight is None for weight in weights}) > 1:
        raise RecipeError(f"photos must have a weight in every entry or in none, got {weights}")
    collections = [_photos(entry, f"photos.{place}") for place, entry in enumerate(photos)]
    try:
        return HandScenes(
            options.pop("samples"),
            photos=collections,
            photo_weights=None if None in weights or not weights else weights,
            background_photos=None if background is None else photo_tiles(background),
            **options,
        )
    except KeyError as error:
        raise RecipeError("scenes needs samples, how many there are in an epoch") from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"scenes: {error}") from error


def _photos(entry: Mapping[str, Any], where: str) -> list[Photo]:
    """The photos of an entry."""
    options = {name: value for name, value in entry.items() if name != "weight"}
    if "no_hands" in options:
        folder = Path(options.pop("no_hands"))
        found = [Photo(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
        if options or not found:
            problem = f"has fields beside it: {', '.join(options)}" if options else f"{folder} holds no picture"
            raise RecipeError(f"{where}: no_hands {problem}")
        return found
    if not {"name", "root"} <= options.keys() <= {"name", "root", "split"}:
        raise RecipeError(f"{where} must have name, root and perhaps split and weight, got {', '.join(entry)}")
    found = photos_of(open_dataset(options["name"], options["root"], options.get("split")))
    if not found:
        raise RecipeError(f"{where}: {options['name']} in {options['root']} has no sample")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of this module, for torchrun."""
    return run_as_program("handmim.training.detector", __doc__.split("\n")[0], prepare_recipe, train_detector, argv)


if __name__ == "__main__":
    sys.exit(main())
