r"""Labels for photographs of single hands that have none: 21 keypoints and the side, as MediaPipe sees them.

    python conversion/label_photos.py FOLDER [--split NAME] [--confidence 0.9]

writes FOLDER/NAME.jsonl in the form of `handmim/training/datasets/folder.py`, so that a recipe can train on them
(`name: folder`), and, of the hands that clearly show their palm or their back, NAME-palm.jsonl and NAME-back.jsonl: who
learns sides wants as many of each. They are another network's guesses, not annotations: every line says so in `info`,
and they are for training only. Files of earlier guesses are replaced; where one of the three holds any line that is no
such guess, nothing is written. Needs MediaPipe before 0.10.30, which carries its models, and neither torch nor handmim:
it may run in an environment of its own.

A picture is left out if it cannot be read, if no hand, several hands or a hand of an unsure side are found, or if the
keypoints lie beyond the picture; the count of each is printed. Hidden folders and those named `masks` are passed over.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MASKS = "masks"  # a folder of labels, which are pictures as well
GUESS = "guess of MediaPipe"  # how `info` begins
MARGIN = 0.3  # of the side, added around: MediaPipe misses hands that fill the picture
SMALLEST, OUTSIDE = 0.15, 0.05  # of the side: the hand's extent, and how far beyond the picture a keypoint may lie
EDGE = 0.03  # of the square of the hand's extent: twice the area between wrist and outer knuckles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="labels", help="name of the file (default: labels)")
    parser.add_argument("--confidence", type=float, default=0.9, help="in the side (default: 0.9)")
    args = parser.parse_args()
    targets = {part: args.folder / f"{args.split}{part}.jsonl" for part in ("", "-palm", "-back")}
    refuse_annotations(targets.values())
    import mediapipe

    detector = mediapipe.solutions.hands.Hands(
        static_image_mode=True, max_num_hands=2, model_complexity=1, min_detection_confidence=0.5
    )
    counts: Counter[str] = Counter()
    lines: dict[str, list[str]] = {part: [] for part in targets}
    for path in photos(args.folder):
        pixels = upright(path)
        found = "unreadable" if pixels is None else label(pixels, detector, args.confidence)
        counts[found if isinstance(found, str) else "labelled"] += 1
        if not isinstance(found, str):
            name = path.relative_to(args.folder).as_posix()
            line = json.dumps({"image": name, **found, "info": f"{GUESS} {mediapipe.__version__}"})
            lines[""].append(line)
            view = seen_from(np.array(found["keypoints_2d"]), found["handedness"])
            if view is not None:
                lines[f"-{view}"].append(line)
                counts[f"of these from the {view}"] += 1
    if lines[""]:
        for part, target in targets.items():
            write(target, lines[part])
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()) or f"no photo in {args.folder}")


def refuse_annotations(targets: Iterable[Path]) -> None:
    """Stop where a file that would be replaced holds more than guesses.

    Raises:
        SystemExit: Naming the first line that this script did not write.
    """
    for target in targets:
        # by bytes: whatever is in the file, it must not be lost
        lines = target.read_bytes().splitlines() if target.exists() else ()
        for number, line in enumerate(lines, 1):
            if line.strip() and not is_guess(line):
                raise SystemExit(
                    f"nothing was written: {target}, line {number}, is no {GUESS} and would be lost; move the file "
                    "away or give another --split"
                )


def is_guess(line: bytes) -> bool:
    """Whether a line of a label file says in `info` that it is from here."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and str(record.get("info", "")).startswith(GUESS)


def write(target: Path, lines: list[str]) -> None:
    """Lines into a file, whole or not at all; without any, that of an earlier run goes: readers refuse empty ones."""
    if not lines:
        target.unlink(missing_ok=True)
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    os.replace(temporary, target)


def photos(folder: Path) -> list[Path]:
    """All pictures below a folder, but for those in hidden folders and in folders of masks."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not passed_over(path.relative_to(folder)))


def passed_over(path: Path) -> bool:
    """Whether a picture's path from the folder on is hidden, or that of a mask."""
    return MASKS in path.parts[:-1] or any(part[0] == "." for part in path.parts)


def upright(path: Path) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB of a picture as it is shown, turned as its EXIF block says; None if it cannot be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def label(pixels: np.ndarray, detector: Any, confidence: float) -> dict[str, Any] | str:
    """The fields of a line, or why there are none.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        detector: MediaPipe's.
        confidence: The least in the side.
    """
    height, width = pixels.shape[:2]
    pad = round(MARGIN * max(height, width))
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    result = detector.process(np.ascontiguousarray(padded))
    hands = result.multi_hand_landmarks or ()
    if len(hands) != 1:
        return "with several hands" if hands else "without a hand"
    side = result.multi_handedness[0].classification[0]
    if side.score < confidence:
        return "of an unsure side"
    shares = np.array([[point.x, point.y] for point in hands[0].landmark])
    # the centre of the first pixel is (0, 0), its corner (-0.5, -0.5)
    points = shares * [padded.shape[1], padded.shape[0]] - 0.5 - pad
    size = np.array([width, height])
    if (points < -OUTSIDE * size).any() or (points > (1 + OUTSIDE) * size).any():
        return "with a hand beyond the border"
    if np.ptp(points, axis=0).max() < SMALLEST * size.max():
        return "with a small hand"
    # MediaPipe names sides as in a mirror
    handedness = {"Left": "right", "Right": "left"}[side.label]
    return {"handedness": handedness, "keypoints_2d": points.round(2).tolist()}


def seen_from(points: np.ndarray, handedness: str) -> str | None:
    """Which the camera sees, "palm" or "back"; None where it looks at the edge.

    Args:
        points: (21, 2) pixels, y down.
        handedness: "left" or "right".
    """
    index, little = points[[5, 17]] - points[0]  # knuckles
    turn = (index[0] * little[1] - index[1] * little[0]) / np.ptp(points, axis=0).max() ** 2
    if abs(turn) < EDGE:
        return None
    return "back" if (turn > 0) == (handedness == "right") else "palm"


if __name__ == "__main__":
    main()
