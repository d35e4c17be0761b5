r"""Where are the hands: our detector, the whole picture with refinements, and MediaPipe, on annotated photographs.

    python tests/benchmarks/hand_detection.py --manifest PATH/manifest.json [--detector FOLDER] [--model DIR|embedded] \
        [--mediapipe-python PYTHON] [--no-hands FOLDER] [--min-score 0.3] [--draw OUT.png] \
        [--out model_cards/sources/NAME/real-photos-dev-detection.json]

Recall is the share of known hands whose box a found one overlaps by half of their union; a false positive overlaps no
known hand by a fifth, whether the photo has unlabelled hands or not. Sides count on hands that are found; for our
detector there are further rows, of what the front door gives: the mesh model judges candidates and says sides; "fine"
and "fast" of the detector that always or never looks closer for small hands.
`--no-hands` adds a folder of photos that show none. Pictures a second are of one process with all of its threads, from
pixels to boxes. `--out` writes what `conversion/build_model_cards.py` makes a card of.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from handmim.atomic_files import atomic_file
from handmim.detection import Detection, WholeImage
from handmim.evaluation.real_photos import RealPhotos
from handmim.evaluation.report import table, versions
from handmim.hand import HandMIM
from handmim.hand_boxes import JOINT_MARGIN, box_around, clip_box, overlap_of
from handmim.images import IMAGE_SUFFIXES, load_image
from handmim.model_card_detections import FORMAT, file_checksum
from handmim.open_detector import EMBEDDED_DETECTOR, OpenHandDetector

sys.path.insert(0, str(Path(__file__).parent))
from real_photos import run_mediapipe

MATCHED, BESIDE = 0.5, 0.2  # overlaps
Detect = Callable[[np.ndarray], list[Detection]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--detector", type=Path, default=EMBEDDED_DETECTOR, help="folder of our detector")
    parser.add_argument("--min-score", type=float, default=0.3, help="of our detector")
    parser.add_argument("--size", type=int, help="side of our detector's input, in place of the checkpoint's")
    parser.add_argument("--model", default="embedded", help="mesh checkpoint of the refinements and of sides")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--mediapipe-python", help="interpreter that has mediapipe <= 0.10.21")
    parser.add_argument("--no-hands", type=Path, help="folder of photos that show no hands")
    parser.add_argument("--out", type=Path, help="JSON of the figures")
    parser.add_argument("--draw", type=Path, help="picture of what our detector finds")
    args = parser.parse_args()
    reader = RealPhotos(args.manifest, args.split)
    known = known_hands(reader)
    pictures = [load_image(path).pixels for path in known]
    empty = [path for path in sorted((args.no_hands or Path()).rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    nothing = [load_image(path).pixels for path in empty] if args.no_hands else []
    ours = OpenHandDetector(args.detector, args.min_score)
    if args.size:
        ours._network[1].size = {"height": args.size, "width": args.size}
    model = None if args.model == "embedded" else args.model
    mesh = HandMIM.from_pretrained(model, detector=ours)
    fine, fast = (
        HandMIM.from_pretrained(model, detector=OpenHandDetector(args.detector, args.min_score, look))
        for look in ("always", "never")
    )
    methods: dict[str, Detect] = {
        "open": ours.detect,
        "open, with the mesh": lambda image: through(mesh, image),
        "fine, with the mesh": lambda image: through(fine, image),
        "fast, with the mesh": lambda image: through(fast, image),
    }
    if not args.only_ours:
        whole = HandMIM.from_pretrained(model, detector=WholeImage())
        methods["whole picture, refined"] = lambda image: through(whole, image)
    rows = {}
    for name, detect in methods.items():
        detect(pictures[0])  # loads what it needs
        start = time.perf_counter()
        found = [detect(picture) for picture in pictures]
        rate = len(pictures) / (time.perf_counter() - start)
        wrong = [detect(picture) for picture in nothing]
        rows[name] = figures(found, list(known.values())) | empty_figures(wrong) | {"pictures_s": rate}
        if name == "open" and args.draw:
            draw(pictures, list(known.values()), found, args.draw)
    if args.mediapipe_python:
        found = mediapipe_detections(pictures + nothing, args.mediapipe_python)
        counted = figures(found[: len(pictures)], list(known.values()))
        rows["MediaPipe"] = counted | empty_figures(found[len(pictures) :])
    print(f"{len(pictures)} photos with {sum(map(len, known.values()))} known hands, {len(nothing)} without hands")
    print(table(rows, tuple(rows["open"])))
    if args.out:
        result = {
            "format": FORMAT,
            "benchmark": reader.name,
            "split": args.split,
            "weights": file_checksum(args.detector),
            "counts": {"photos": len(pictures), "hands": len(reader), "empty": len(nothing)},
            "min_score": args.min_score,
            "methods": rows,
            "versions": versions(),
        }
        with atomic_file(args.out) as file:
            file.write(json.dumps(result, indent=1).encode())


def known_hands(reader: RealPhotos) -> dict[Path, list[Detection]]:
    """The labelled hands of each photo."""
    hands: dict[Path, list[Detection]] = defaultdict(list)
    for sample in reader:
        hands[sample.image].append(Detection(sample.box, sample.handedness))
    return hands


def through(model: HandMIM, image: np.ndarray) -> list[Detection]:
    """Boxes around the hands that the front door gives, and their sides."""
    hands = model(image)
    boxes = [clip_box(box_around(hand.keypoints_2d, JOINT_MARGIN), image) for hand in hands]
    return [Detection(box, hand.handedness) for box, hand in zip(boxes, hands, strict=True) if box is not None]


def mediapipe_detections(pictures: Sequence[np.ndarray], python: str) -> list[list[Detection]]:
    """What `MediaPipeDetector` would say, by another interpreter."""
    found = []
    for picture, hands in zip(pictures, run_mediapipe(pictures, python)[0], strict=True):
        height, width = picture.shape[:2]
        points = [np.array(landmarks)[:, :2] * (width, height) - 0.5 for landmarks, _, _ in hands]
        boxes = [clip_box(box_around(hand, JOINT_MARGIN), picture) for hand in points]
        sides = [side for _, _, side in hands]
        found.append([Detection(box, side) for box, side in zip(boxes, sides, strict=True) if box is not None])
    return found


def figures(found: Sequence[list[Detection]], known: Sequence[list[Detection]]) -> dict[str, Any]:
    """Recall, mean overlap of what is found, false positives a photo, sides."""
    overlaps, right, named, told, false = [], 0, 0, 0, 0
    for hands, truths in zip(found, known, strict=True):
        taken: set[int] = set()
        for truth in truths:
            shares = [0.0 if k in taken else overlap_of(hand.box, truth.box) for k, hand in enumerate(hands)]
            best = int(np.argmax(shares)) if shares else -1
            overlaps.append(shares[best] if shares else 0.0)
            if overlaps[-1] >= MATCHED:
                taken.add(best)
                named += truth.handedness is not None
                told += hands[best].handedness is not None
                right += truth.handedness is not None and hands[best].handedness == truth.handedness
        false += sum(max(overlap_of(hand.box, truth.box) for truth in truths) < BESIDE for hand in hands)
    overlaps = np.array(overlaps)
    return {
        "recall": float((overlaps >= MATCHED).mean()),
        "recall_75": float((overlaps >= 0.75).mean()),
        "overlap": float(overlaps.mean()),
        "false_a_photo": false / len(found),
        "side_right": right / max(named, 1),
        "side_told": told / max(named, 1),
    }


def empty_figures(found: Sequence[list[Detection]]) -> dict[str, float]:
    """Hands a photo where there are none."""
    return {"false_a_photo_without_hands": sum(map(len, found)) / len(found)} if found else {}


def draw(pictures: Sequence[np.ndarray], known: Sequence[Any], found: Sequence[Any], path: Path) -> None:
    """A sheet of the photos: known boxes white, found ones green (right), red (left), blue (side unknown)."""
    from PIL import Image, ImageDraw

    side, columns = 200, 9
    sheet = Image.new("RGB", (side * columns, side * -(-len(pictures) // columns)))
    colours = {"right": (0, 255, 0), "left": (255, 0, 0), None: (0, 128, 255)}
    for row, picture in enumerate(pictures):
        scale = side / max(picture.shape[:2])
        photo = Image.fromarray(picture)
        photo = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
        pen = ImageDraw.Draw(photo)
        for hand in known[row]:
            pen.rectangle((hand.box * scale).tolist(), outline=(255, 255, 255))
        for hand in found[row]:
            pen.rectangle((hand.box * scale).tolist(), outline=colours[hand.handedness], width=2)
            pen.text((hand.box[:2] * scale + 3).tolist(), f"{hand.score:.2f}")
        sheet.paste(photo, (row % columns * side, row // columns * side))
    sheet.save(path)


if __name__ == "__main__":
    main()
