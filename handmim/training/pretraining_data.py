"""From the `data`, `views` and `masks` sections of a recipe to the views that pre-training sees."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..configuration_handmim import HandMIMConfig
from ..errors import DataError
from .datasets.images import CropImages, FolderImages, ImageCollection, JoinedImages, SyntheticImages, open_images
from .datasets.registry import reader_class
from .datasets.view_pairs import ViewPairs
from .masking import MaskGenerator
from .recipe import RecipeError
from .views import ViewAugmentation

if TYPE_CHECKING:
    from .pretraining_trainer import PreTrainingArguments

# Of crops that are cut out of labelled pictures; see `open_images`.
_CROP_OPTIONS = {"size", "box_scale", "mirror_left"}


def build_views(recipe: Mapping[str, Any], config: HandMIMConfig, arguments: PreTrainingArguments) -> ViewPairs:
    """The data set of a run.

    Args:
        recipe: With `data` (see `build_images`), and perhaps `views` (fields of `ViewAugmentation`) and `masks` (kind
            and ratio of `MaskGenerator`).
        config: Of the network: its image size, its patches, and whether it sees masks.
        arguments: Seed, batch size, where views are rendered, and what is done about broken pictures.

    Raises:
        RecipeError, DataError: Anything wrong, by section.
    """
    views = _section(recipe, "views", {field.name for field in dataclasses.fields(ViewAugmentation)} - {"size"})
    masks = _section(recipe, "masks", {"kind", "ratio"})
    try:
        augmentation = ViewAugmentation(
            size=config.image_size,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in views.items()},
        )
        generator = MaskGenerator(config.image_size // config.patch_size, seed=arguments.seed, **masks)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"views and masks: {error}") from error
    check_negatives(config, arguments)
    images = build_images(recipe.get("data"))
    smallest = arguments.step_batch_size
    if len(images) < smallest:
        raise RecipeError(
            f"data has {len(images)} pictures, less than one step's batch of {smallest}: add pictures, or set "
            f"training.batch_size and perhaps training.learning_rate"
        )
    return ViewPairs(
        images,
        augmentation,
        seed=arguments.seed,
        masks=generator if config.pretraining_config.mask_student else None,
        render=arguments.rendering_place,
        broken=arguments.broken_images,
        with_index=True,
    )


def check_negatives(config: HandMIMConfig, arguments: PreTrainingArguments) -> None:
    """NT-Xent compares with the other pictures at once, of all processes; without any it is 0, and teaches nothing.

    Raises:
        RecipeError: There is one picture at once.
    """
    method = config.pretraining_config
    at_once = arguments.train_batch_size * arguments.world_size
    if method.class_loss == "contrastive" and method.pose_weight and at_once < 2:
        raise RecipeError(
            "pretraining.class_loss is contrastive, which takes at least 2 pictures at once, of all processes, got "
            f"{at_once}: set a larger training.batch_size, or fewer training.gradient_accumulation_steps"
        )


def _section(recipe: Mapping[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    section = recipe.get(name) or {}
    if not isinstance(section, dict) or section.keys() - known:
        raise RecipeError(f"{name} must be a mapping of {', '.join(sorted(known))}, got {section!r}")
    return section


def build_images(entries: Any) -> ImageCollection:
    """All pictures of a run, one collection after the other.

    Args:
        entries: `data` of the recipe: a list of mappings with name: "folder" (a folder tree of pictures), "crops" (of
            ``handmim crops``), "synthetic" (see `SyntheticImages`), or a data set of `registry.READERS`, of which hands
            are cut out by their boxes; root; perhaps split; and further options of `open_images`.

    Raises:
        RecipeError, DataError: Not such a list, or whatever a collection finds wrong.
    """
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f"data must be a list of collections of pictures, each with its name, got {entries!r}")
    parts = [_collection(entry, f"data.{place}") for place, entry in enumerate(entries)]
    return parts[0] if len(parts) == 1 else JoinedImages(parts)


def _collection(entry: Any, where: str) -> ImageCollection:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RecipeError(f"{where} must be a mapping with a name, got {entry!r}")
    options = {key: value for key, value in entry.items() if key != "name"}
    name = entry["name"]
    if name != "synthetic" and not options.get("root"):
        raise RecipeError(f"{where}: {name} needs its folder: root in the recipe, or --data {name}=FOLDER")
    kinds = {"folder": FolderImages, "crops": CropImages, "synthetic": SyntheticImages}
    kind = kinds.get(name)
    known = inspect.signature(kind or reader_class(name)).parameters.keys() | (set() if kind else _CROP_OPTIONS)
    if name == "synthetic":
        known = known - {"options"}
        if "length" not in options:
            raise RecipeError(f"{where}: synthetic needs length, how many pictures there are")
    if options.keys() - known:
        unknown = ", ".join(sorted(options.keys() - known))
        raise RecipeError(f"{where} has unknown fields {unknown}; {name} takes {', '.join(sorted(known))}")
    try:
        return open_images(name, **options)
    except DataError as error:
        if name != "synthetic":  # messages of others name a file
            raise
        raise RecipeError(f"{where}: {error}") from error
