"""From the `data` and `validation` sections of a recipe to data sets, and what does not fit is told before the run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, cast

from transformers.utils import logging

from ..configuration_hiu_dmtl import TASKS, HIUDMTLConfig
from ..criterion_hiu_dmtl import self_supervised
from ..hand_pretrained import HandPreTrainedModel
from .augmentation import Augmentation
from .datasets.check import check_reader
from .datasets.crops import TRAINING_LABELS, HandCrops
from .datasets.items import HandItems
from .datasets.mixture import Mixture
from .datasets.registry import open_dataset, reader_class
from .datasets.sample import HAND_MODEL_LABELS, HandReader
from .datasets.subset import Subset
from .datasets.synthetic import SyntheticHands
from .recipe import RecipeError

logger = logging.get_logger(__name__)

# The loss terms that a label feeds.
USED_BY: dict[str, tuple[str, ...]] = {name: (name,) for name in TRAINING_LABELS}
USED_BY["keypoints_2d"] = ("keypoints_2d", "heatmap", "heatmap_keypoints")
# The same of HIU-DMTL.
HIU_USED_BY = USED_BY | {
    "keypoints_2d": ("keypoints_2d", "heatmaps", "heatmap_keypoints", "pof"),
    "joints": ("joints", "bones", "pof"),
    "mask": ("mask", "silhouette"),
}
# The task whose maps a term is about; all others are about the mesh.
MAP_TERMS = {task: task for task in TASKS} | {"heatmap_keypoints": "heatmaps"}
# Pictures of a data set whose headers are opened before a run: all of a large one would take minutes.
HEADERS = 64
# Keys of an entry that are not the reader's.
COMMON = {"name", "weight", "labels", "part", "augmentation", "check"}
# Keys of an entry on disk that are the crops', with their values where they are left out.
CROP_OPTIONS = {
    "box_scale": 1.2, "negatives": 0.0, "sides": True, "new_backgrounds": 0.0, "background_photos": None
}  # fmt: skip


def build_training_data(
    recipe: Mapping[str, Any], model: HandPreTrainedModel, seed: int, render: Literal["worker", "device"] = "worker"
) -> HandItems:
    """The data set of a run: one, or a mixture by weight.

    Args:
        recipe: With `data`, a list of entries (see `build_entry`, and `weight`: the relative share of samples, by
            default all), `augmentation` (strengths, or false) and `epoch_samples` (items of an epoch; by default the
            number of all samples on disk, or of synthetic ones if there are no others).
        model: What it is for.
        seed: Of augmentation, mixture and, unless an entry gives another, synthetic images.
        render: Where synthetic hands are rendered, unless their entry says.

    Raises:
        RecipeError, DataError: Anything wrong, by entry.
    """
    entries = recipe.get("data")
    if not isinstance(entries, list) or not entries:
        raise RecipeError(f"data must be a list of data sets, each with its name, got {entries!r}")
    default = recipe.get("augmentation")
    datasets = [
        build_entry(_placed(entry, render), f"data.{place}", model, seed + place, entry.get("augmentation", default))
        for place, entry in enumerate(map(_checked, entries))
    ]
    weights = [entry.get("weight") for entry in entries]
    length = recipe.get("epoch_samples")
    if len(datasets) == 1 and length is None:
        return datasets[0]
    if len(set(weight is None for weight in weights)) > 1:
        raise RecipeError(f"data must have a weight in every entry or in none, got {weights}")
    if length is None:
        stored = [len(dataset) for dataset in datasets if isinstance(dataset, HandCrops)]
        length = sum(stored or [len(dataset) for dataset in datasets])
    try:
        return Mixture(datasets, None if None in weights else weights, length=length, seed=seed)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"data: {error}") from error


def _checked(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RecipeError(f"an entry of data must be a mapping with a name, got {entry!r}")
    return entry


def _placed(entry: dict[str, Any], render: str) -> dict[str, Any]:
    """An entry, of synthetic hands with where they are rendered."""
    return {"render": render} | entry if entry["name"] == "synthetic" else entry


def build_entry(
    entry: Mapping[str, Any],
    where: str,
    model: HandPreTrainedModel,
    seed: int,
    augmentation: Any = False,
    labels: list[str] | None = None,
) -> HandItems:
    """One data set.

    Args:
        entry: name: of a data set (`registry.READERS`) or "synthetic"; labels: those to use, by default all that have a
            loss weight, or false for self-supervision alone; check: false to skip the check of all labels and of some
            pictures' headers; and for data on disk root, split, part (see `Subset`), augmentation, box_scale,
            negatives, sides, new_backgrounds and background_photos (see `HandCrops`) and further arguments of the
            reader; for synthetic ones samples, seed, negatives, variety, first, new_each_epoch, render.
        where: Its place in the recipe, for messages.
        model: What it is for.
        seed: Of the augmentation.
        augmentation: See `Augmentation.from_section`.
        labels: To use in place of those that the entry or the losses name.

    Raises:
        RecipeError, DataError: Labels that no loss uses or of another hand model, files that are missing, labels that
            cannot be right, or are not for pictures of that size.
    """
    if labels is None:
        labels = wanted_labels(entry.get("labels"), f"{where}.labels", model.config)
    size = model.config.image_size
    options = {key: value for key, value in entry.items() if key not in COMMON}
    if entry["name"] == "synthetic":
        unused = sorted({"part", "augmentation", "check"} & entry.keys())
        if unused:
            raise RecipeError(f"{where}: synthetic hands have no {', '.join(unused)}; variety says how they differ")
        _match_hand_model("synthetic", SyntheticHands.hand_model, labels, where, model)
        return _synthetic(options, where, size, seed, labels)
    of_crops = {key: options.pop(key, default) for key, default in CROP_OPTIONS.items()}
    reader = open_reader(entry["name"], options, where, model)
    if entry.get("part") is not None:
        reader = _part(reader, entry["part"], where)
    if not len(reader):
        raise RecipeError(f"{where}: {reader.name} in {reader.root}, split {reader.split}, has no sample")
    _match_hand_model(reader.name, reader.hand_model, labels, where, model)
    for note in getattr(reader, "notes", ()):
        logger.warning(f"{where}, {reader.name}: {note}")
    if entry.get("check", True):
        hiu = isinstance(model.config, HIUDMTLConfig)
        unlabelled = learns_unlabelled(model.config)
        report = check_reader(reader, wanted=labels if hiu else None, unlabelled=unlabelled, headers=HEADERS)
        report.raise_for_errors()
        if labels and not set(labels) & set(report.labels):
            found = ", ".join(sorted(report.labels)) or "nothing"
            raise RecipeError(f"{where}: {reader.name} labels {found}; the run would learn from {', '.join(labels)}")
    try:
        strength = Augmentation.from_section(augmentation)
        return HandCrops(reader, size, augmentation=strength, seed=seed, labels=labels, **of_crops)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error


def build_validation_data(entry: Any, model: HandPreTrainedModel) -> HandItems | None:
    """The held-out data set of a run: crops as the image processor cuts them, with joints, and meshes if they fit.

    Args:
        entry: `validation` of the recipe, as one of `data`; None: there is none.
        model: What it is for.
    """
    if not entry:
        return None
    entry = _checked(entry)
    unused = sorted({"weight", "augmentation"} & entry.keys())
    if unused:
        raise RecipeError(f"validation takes no {', '.join(unused)}: crops are as the image processor cuts them")
    if entry.get("render", "worker") != "worker":
        raise RecipeError(f"validation.render must be worker, got {entry['render']!r}")
    # What is evaluated holds its pixels: its batches are few.
    entry, labels = _placed(dict(entry), "worker"), None
    if "labels" not in entry:
        labels = wanted_labels(None, "validation.labels", model.config)
        if isinstance(model.config, HIUDMTLConfig):  # measured though no loss uses them
            labels = [name for name in TRAINING_LABELS if name in (*labels, "joints", "vertices", "keypoints_2d")]
        theirs = None if entry["name"] == "synthetic" else reader_class(entry["name"]).hand_model
        if theirs not in (None, model.config.hand_model):
            labels = [name for name in labels if name not in HAND_MODEL_LABELS]
    return build_entry(entry, "validation", model, seed=0, labels=labels)


def label_terms(config: Any) -> dict[str, tuple[str, ...]]:
    """The loss terms that each label can feed in a model of this configuration."""
    if not isinstance(config, HIUDMTLConfig):
        return USED_BY
    maps = set(config.tasks)
    return {
        label: tuple(term for term in terms if (MAP_TERMS[term] in maps if term in MAP_TERMS else config.mesh))
        for label, terms in HIU_USED_BY.items()
    }


def learns_unlabelled(config: Any) -> bool:
    """Whether a model of this configuration learns from pictures without labels."""
    return isinstance(config, HIUDMTLConfig) and self_supervised(config)


def wanted_labels(given: Any, where: str, config: Any) -> list[str]:
    """The labels that some loss term uses: of those a recipe names, or of all; none for `false`.

    Raises:
        RecipeError: One that is named is unknown, or used by none; or none, and nothing is learned without.
    """
    terms = label_terms(config)
    used = [name for name in TRAINING_LABELS if any(config.loss_weights.get(term) for term in terms[name])]
    if given is None:
        return used
    if given is False:
        if learns_unlabelled(config):
            return []
        raise RecipeError(
            f"{where} is false, but self-supervision is off: it takes the family hiu-dmtl with a mesh, and "
            "model.loss_weights.self_mask or model.loss_weights.self_keypoints above 0"
        )
    if not isinstance(given, list) or not given or not set(given) <= set(TRAINING_LABELS):
        raise RecipeError(f"{where} must be a list of some of {', '.join(TRAINING_LABELS)}, got {given!r}")
    for name in given:
        if name not in used:
            weights = " and ".join(f"model.loss_weights.{term}" for term in terms[name])
            reason = f"{weights} is 0" if weights else "the tasks that learn from it are off"
            raise RecipeError(f"{where} names {name}, but {reason}: no loss would use it")
    if "vertices" in given and "joints" not in given:
        raise RecipeError(f"{where} names vertices without joints: vertices are compared relative to the wrist joint")
    return given


def _match_hand_model(name: str, theirs: str | None, labels: list[str], where: str, model: HandPreTrainedModel) -> None:
    ours = model.config.hand_model
    foreign = [label for label in labels if label in HAND_MODEL_LABELS]
    if theirs not in (None, ours) and foreign:
        raise RecipeError(
            f"{where}: the {', '.join(foreign)} of {name} belong to the hand model {theirs!r}, the network's is "
            f"{ours!r}; set model.hand_model: {theirs}, or give the entry labels: [joints, keypoints_2d]"
        )


def open_reader(name: str, options: dict[str, Any], where: str, model: HandPreTrainedModel) -> HandReader:
    """A reader with the options of an entry; one that needs the hand model's file takes the network's.

    Raises:
        RecipeError: No root, or an option that this reader does not have.
    """
    options = dict(options)
    parameters = inspect.signature(reader_class(name)).parameters
    if "root" not in options:
        raise RecipeError(f"{where}: {name} needs its folder: root in the recipe, or --data {name}=FOLDER")
    unknown = options.keys() - parameters.keys()
    if unknown:
        known = ", ".join(sorted(parameters.keys() | COMMON | CROP_OPTIONS.keys()))
        raise RecipeError(f"{where} has unknown fields {', '.join(sorted(unknown))}; {name} takes {known}")
    if "hand_model_path" in parameters and model.config.hand_model == "mano":
        options.setdefault("hand_model_path", model.hand_model.path if hasattr(model, "hand_model") else None)
    if "unlabelled" in parameters and learns_unlabelled(model.config):
        options.setdefault("unlabelled", True)
    return open_dataset(name, options.pop("root"), options.pop("split", None), **options)


def _part(reader: HandReader, part: Any, where: str) -> HandReader:
    """One share of a data set."""
    numbers = isinstance(part, list) and len(part) == 2 and all(isinstance(share, int | float) for share in part)
    try:
        if not numbers:
            raise ValueError(f"part must be two shares, as [0, 0.2], got {part!r}")
        return cast(HandReader, Subset(reader, *part))
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _synthetic(options: dict[str, Any], where: str, size: int, seed: int, labels: list[str]) -> SyntheticHands:
    options = {"seed": seed, "size": size} | options
    try:
        return SyntheticHands(options.pop("samples"), labels=labels, source=where, **options)
    except KeyError as error:
        raise RecipeError(f"{where}: synthetic needs samples, how many there are") from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error
