"""Settings that decide what a checkpoint predicts, beside its weights: whether a report was made with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_card_weights import CardError

PROCESSOR_FILE = "preprocessor_config.json"
# Of training only, or said elsewhere in a report, or written by transformers about itself. All else must agree, also
# what a later version adds.
WITHOUT_EFFECT = frozenset(
    "architectures auto_map custom_pipelines drop_path_rate dtype format_version id2label "
    "initializer_range label2id loss_weights pretraining_config problem_type regressor_dropout return_dict torch_dtype "
    "trained_on transformers_version use_cache".split()
)


def difference(reported: Any, here: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that a report and a checkpoint state differently: its name, the report's value, ours.

    Args:
        reported: `model.config` or `model.processor` of a report; one without them, as there were, agrees with all.
        here: Of the checkpoint. What only one of the two states is of another version of the package.
    """
    if not isinstance(reported, Mapping):
        return None
    for key in sorted(reported.keys() & here.keys() - WITHOUT_EFFECT):
        if reported[key] != here[key]:
            return key, reported[key], here[key]
    return None


def processor_values(folder: Path) -> dict[str, Any]:
    """What reports state of an image processor; {} where a checkpoint has none and gets the package's own.

    Raises:
        CardError: Its file cannot be read.
    """
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
        size = values.get("size")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CardError(f"{path} cannot be read ({error}); save the processor again") from error
    return values | ({"size": size["height"]} if isinstance(size, Mapping) and "height" in size else {})
