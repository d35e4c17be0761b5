r"""How many hands of rendered scenes our detector finds, by their size, in gloves and without, with and without the
people they belong to.

    python tests/benchmarks/detector_scenes.py [--detector FOLDER ...] [--model DIR|embedded] [--scenes 512] \
        [--size 480] [--fine]

Scenes of one, four and nine tiles and of any framing, as in training but of another seed, rendered larger (`--size`)
than any detector's input and shown to each at its own size. A hand is found if a box of its picture overlaps its own by
half of their union; false positives overlap no hand by a fifth. "Up to" is the longer side of a hand's box over the
picture's. With `--model` there is a second row for each detector: of its candidates those that it accepts after the
mesh network has seen them, in the detector's own boxes. The detector never looks closer for small hands; `--fine` adds
the same where it does if it sees one, and where it always does, on scenes that should then be as large (`--size 768`).
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hand_detection import BESIDE, MATCHED, Detect

from handmim import HandMIM
from handmim.evaluation.report import table
from handmim.hand_boxes import Detection, overlap_of
from handmim.open_detector import EMBEDDED_DETECTOR, FineLook, OpenHandDetector
from handmim.training.datasets.hand_scenes import HandScenes
from handmim.training.datasets.items import Item

SEED = 97
LOOKS: tuple[FineLook, ...] = ("never", "if-small", "always")
SIZES = (0.08, 0.15, 0.3, 1.0)
VARIETIES = {
    "hands": {"base": "scene"},
    "gloves": {"base": "scene", "gloves": 1.0},
    "people": {"base": "scene", "persons": 1.0, "negatives": 0.0, "loose": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, nargs="+", default=[EMBEDDED_DETECTOR], help="folders")
    parser.add_argument("--model", help="mesh checkpoint, folder or Hub id, or 'embedded'")
    parser.add_argument("--fine", action="store_true", help="also with closer looks")
    parser.add_argument("--scenes", type=int, default=512, help="of each kind")
    parser.add_argument("--size", type=int, default=480, help="px; a multiple of 48")
    args = parser.parse_args()
    for kind, variety in VARIETIES.items():
        scenes = HandScenes(args.scenes, seed=SEED, size=args.size, variety=variety)
        looks = [(folder, fine) for folder in args.detector for fine in (LOOKS if args.fine else LOOKS[:1])]
        methods = {name: detect for look in looks for name, detect in methods_of(*look, args.model)}
        found: dict[str, list[list[Detection]]] = {name: [] for name in methods}
        items = []
        for start in range(0, args.scenes, 16):
            for item in scenes.__getitems__(list(range(start, min(start + 16, args.scenes)))):
                pixels = item.pop("pixel_values").permute(1, 2, 0).add(1).mul(127.5).round().byte().numpy()
                items.append(item)
                for name, detect in methods.items():
                    found[name].append(detect(pixels))
        rows = {name: recalls(items, hands, args.size) for name, hands in found.items()}
        print(f"{args.scenes} scenes of {kind}\n{table(rows, tuple(next(iter(rows.values()))))}\n", flush=True)


def methods_of(folder: Path, fine: FineLook, model: str | None) -> list[tuple[str, Detect]]:
    """A detector alone and, if there is a mesh checkpoint, with its judgement."""
    detector = OpenHandDetector(folder, fine=fine)
    name = folder.name if fine == "never" else f"{folder.name}, closer {fine}"
    alone = [(name, detector.detect)]
    if model is None:
        return alone
    mesh = HandMIM.from_pretrained(None if model == "embedded" else model, detector="none")
    return [*alone, (f"{name}, judged", partial(judged, detector, mesh))]


def judged(detector: OpenHandDetector, mesh: HandMIM, image: np.ndarray) -> list[Detection]:
    """The candidates that are accepted, as the pipeline does it, but not moved to where the mesh is."""
    found = detector.candidates(image)
    hands = mesh(image, boxes=[hand.box for hand in found]) if found else []
    pairs = zip(found, hands, strict=True)
    return [candidate for candidate, hand in pairs if detector.accepts(candidate.score, hand.score)]


def recalls(items: Sequence[Item], found: Sequence[list[Detection]], size: int) -> dict[str, float]:
    """Shares of hands that are found, by their size, and false positives a scene."""
    hits: dict[float, list[bool]] = {limit: [] for limit in SIZES}
    false = 0
    for item, hands in zip(items, found, strict=True):
        labels = item["labels"]
        given = ~labels["boxes"].isnan().any(-1)
        boxes = labels["boxes"][given].double().numpy()
        for box, counted in zip(boxes, labels["counted"][given].tolist(), strict=True):
            if counted:
                limit = next(limit for limit in SIZES if (box[2:] - box[:2]).max() <= limit * size + 1)
                hits[limit].append(any(overlap_of(hand.box, box) >= MATCHED for hand in hands))
        false += sum(all(overlap_of(hand.box, box) < BESIDE for box in boxes) for hand in hands)
    row = {
        f"up to {limit:g} ({len(some)})": float(np.mean(some)) if some else float("nan") for limit, some in hits.items()
    }
    return row | {"false a scene": false / len(items)}


if __name__ == "__main__":
    with torch.inference_mode():
        main()
