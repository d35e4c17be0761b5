"""The card of a hand detector: its notes, in which facts and figures are filled in from the files that hold them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from .model_card_weights import CardError, weights_facts
from .zoo import ZooEntry

FORMAT = "handmim detection 1"
FIGURES = "detection.json"  # of tests/benchmarks/hand_detection.py
ARCHITECTURE = "HandDetectorForObjectDetection"
# What the table says in place of the figures' short names, in order.
ROWS = {
    "recall": "recall, overlap 0.5 ↑",
    "recall_75": "recall, overlap 0.75 ↑",
    "overlap": "mean overlap ↑",
    "false_a_photo": "false positives a photo ↓",
    "false_a_photo_without_hands": "false positives a photo without hands ↓",
    "side_told": "a side is told ↑",
    "side_right": "the side is right ↑",
    "pictures_s": "photos a second ↑",
}
FRONT = """---
library_name: handmim
pipeline_tag: object-detection
license: {licence}
tags:
- handmim
- hand
- hand-detection
- trained-on-synthetic
---

"""


def detector_card(entry: ZooEntry, weights: Path, sources: Path) -> str:
    """The card's text.

    Args:
        entry: Of the zoo.
        weights: The checkpoint's folder.
        sources: Folder of `notes.md`, with the words {facts} and {results} on lines of their own, and of the figures.

    Raises:
        CardError: Notes or figures are missing, or are of other weights.
    """
    notes, path = sources / "notes.md", sources / FIGURES
    if not notes.is_file() or not path.is_file():
        raise CardError(f"{sources} must hold notes.md and {FIGURES}, which tests/benchmarks/hand_detection.py writes")
    figures = json.loads(path.read_bytes())
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()
    if figures.get("format") != FORMAT or figures.get("weights") != digest:
        raise CardError(f"{path} is of other weights than {weights}; run tests/benchmarks/hand_detection.py again")
    text = notes.read_text(encoding="utf-8")
    for word, value in {"{facts}": _facts(entry, weights), "{results}": _results(figures)}.items():
        if text.count(f"\n{word}\n") != 1:
            raise CardError(f"{notes} must hold the word {word} once, on a line of its own")
        text = text.replace(f"\n{word}\n", f"\n{value}\n")
    return FRONT.format(licence=entry.licence.lower()) + text


def _facts(entry: ZooEntry, weights: Path) -> str:
    counted = weights_facts(weights)
    rows = {
        "network": f"residual network with a pyramid, {entry.image_size} px photos, cells of 8 px",
        "parameters, size": f"{entry.parameters / 1e6:.1f} M parameters, {counted['size_bytes'] / 1e6:.1f} MB "
        f"({counted['dtype']})",
        "arithmetic": f"{entry.flops / 1e9:.2g} GFLOPs a photo, two for each multiply-add",
        "recipe": f"`handmim train-detector {entry.recipe}`",
        "licence": entry.licence,
    }
    return "\n".join(["|  |  |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _results(figures: dict[str, Any]) -> str:
    data, methods = figures["data"], figures["methods"]
    lines = [
        f"{data['photos']} photos with {data['hands']} known hands, {data['empty']} without hands; scores from "
        f"{figures['min_score']:g} on.",
        "",
        "|  | " + " | ".join(methods) + " |",
        "|---" * (1 + len(methods)) + "|",
    ]
    for name, title in ROWS.items():
        values = [method.get(name) for method in methods.values()]
        if any(value is not None for value in values):
            digits = 0 if name == "pictures_s" else 2
            shown = ["-" if value is None else f"{value:.{digits}f}" for value in values]
            lines.append(f"| {title} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
