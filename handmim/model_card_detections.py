"""Figures of a hand detector beside other ways of finding hands, for its card.

`tests/benchmarks/hand_detection.py` writes them; they count only for the very weights that they were measured with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_card_comparisons import check_kinds, has_format, is_number
from .model_card_reports import cell, checksum, report_name, table
from .model_card_weights import CardError

FORMAT = "handmim detection 1"
# What the table says in place of the figures' short names, and digits after the point; in this order.
MEASURES = {
    "recall": ("recall, overlap 0.5 ↑", 2),
    "recall_75": ("recall, overlap 0.75 ↑", 2),
    "overlap": ("mean overlap ↑", 2),
    "false_a_photo": ("false positives a photo ↓", 2),
    "false_a_photo_without_hands": ("false positives a photo without hands ↓", 2),
    "side_told": ("a side is told ↑", 2),
    "side_right": ("the side is right ↑", 2),
    "pictures_s": ("photos a second ↑", 0),
}


def is_detection(path: Path) -> bool:
    """Whether a file says that it holds such figures."""
    return has_format(path, FORMAT)


def load_detection(path: Path) -> dict[str, Any]:
    """Read the figures.

    Raises:
        CardError: Something in them is missing or of another kind.
    """
    figures = json.loads(path.read_bytes())
    kinds = {"benchmark": str, "split": str, "weights": str, "counts": dict, "methods": dict, "min_score": float}
    check_kinds(path, figures, kinds)
    rows = {"counts": figures["counts"]} | figures["methods"]
    for name, row in rows.items():
        if not isinstance(row, dict) or not all(map(is_number, row.values())):
            raise CardError(f"{path}: the figures of {name!r} must be numbers; write it with tests/benchmarks again")
    return figures


def check_detection(figures: Mapping[str, Any], folder: Path) -> None:
    """Raises a CardError if figures are not of the weights in a folder."""
    if figures["weights"] != file_checksum(folder):
        raise CardError(
            f"the figures on {figures['benchmark']} are of other weights than {folder}; run "
            "tests/benchmarks/hand_detection.py on these"
        )


def file_checksum(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, in hexadecimal digits.

    Raises:
        CardError: There are none in one file.
    """
    try:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    except OSError as error:
        raise CardError(f"{folder} holds no model.safetensors ({error}); name the folder of a saved model") from error


def detection_results(figures: Mapping[str, Any]) -> str:
    """What was measured, the table, and the file that it is from."""
    counts, methods = figures["counts"], figures["methods"]
    lines = [["", *map(cell, methods)]]
    for name, (title, digits) in MEASURES.items():
        row = [method.get(name) for method in methods.values()]
        if any(value is not None for value in row):
            lines.append([title, *("-" if value is None else f"{value:.{digits}f}" for value in row)])
    return "\n\n".join(
        [
            f"### {cell(figures['benchmark'])}, {cell(figures['split'])}",
            f"{counts['photos']} photos with {counts['hands']} known hands, {counts['empty']} without hands; scores "
            f"from {figures['min_score']:g} on.",
            table(lines),
            f"Figures from `{report_name(figures)}` (SHA-256 {checksum(figures)}).",
        ]
    )
