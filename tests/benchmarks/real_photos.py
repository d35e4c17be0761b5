r"""Score methods on annotated photographs: our model, MediaPipe, and the mean hand that looks at nothing.

    python tests/benchmarks/real_photos.py --manifest PATH/manifest.json \
        [--model DIR|embedded] [--mediapipe-python PYTHON] [--out REPORT.json]

Boxes and sides are given to every method. Our model runs through the front door. MediaPipe sees the picture cut to 2.2
times the box, the left hands mirrored (its best case), and the whole picture; `--mediapipe-python` names an interpreter
that has it, which may be another environment. The mean hand is that of the synthetic training set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MEDIAPIPE_CROP, MEDIAPIPE_SIZE = 2.2, 384
COLUMNS = ("hands", "found", "mean_error", "mean_error_found", "pck_05", "pck_10", "pck_20", "auc", "pa_mpjpe_mm")
# Runs in the other interpreter: pictures of an .npz -> landmarks (in shares of the picture) and world landmarks.
MEDIAPIPE_WORKER = """
import json, sys
import mediapipe
import numpy as np
hands = mediapipe.solutions.hands.Hands(
    static_image_mode=True, max_num_hands=2, model_complexity=1, min_detection_confidence=0.3
)
found = []
with np.load(sys.argv[1]) as pictures:
    for row in range(len(pictures.files)):
        result = hands.process(np.ascontiguousarray(pictures[str(row)]))
        both = zip(result.multi_hand_landmarks or (), result.multi_hand_world_landmarks or ())
        found.append([[[[p.x, p.y, p.z] for p in part.landmark] for part in pair] for pair in both])
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", help="checkpoint folder or Hub id, or 'embedded'")
    parser.add_argument("--mediapipe-python", help="interpreter that has mediapipe <= 0.10.21")
    parser.add_argument("--mean-hands", type=int, default=512, help="synthetic hands in the mean (0: no such row)")
    parser.add_argument("--out", type=Path, help="JSON report")
    args = parser.parse_args()
    from handmim.evaluation.real_photos import load_manifest, score, select

    photos = load_manifest(args.manifest)
    methods: dict[str, Callable[[], dict[str, Any]]] = {}
    if args.mean_hands:
        methods["mean hand"] = lambda: {"mean hand": mean_prediction(photos, args.mean_hands)}
    if args.mediapipe_python:
        methods["mediapipe"] = lambda: mediapipe_predictions(photos, args.mediapipe_python)
    if args.model:
        methods["model"] = lambda: {f"handmim ({args.model})": model_prediction(photos, args.model)}
    report: dict[str, Any] = {"manifest": str(args.manifest), "splits": {}}
    for method in methods.values():
        start = time.perf_counter()
        for name, prediction in method().items():
            for split in sorted({photo.split for photo in photos}):
                rows = [row for row, photo in enumerate(photos) if photo.split == split]
                figures = score([photos[row] for row in rows], select(prediction, rows))
                report["splits"].setdefault(split, {})[name] = figures
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    for split, rows in report["splits"].items():
        print_table(split, rows)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))


def model_prediction(photos: Sequence[Any], name: str) -> Any:
    """Our model, by its front door; intrinsics are its own guess."""
    from handmim import HandMIM
    from handmim.evaluation.real_photos import Prediction

    model = HandMIM.from_pretrained(None if name == "embedded" else name, detector="none")
    hands = model(
        [photo.image for photo in photos],
        boxes=[photo.box[None] for photo in photos],
        handedness=[[photo.handedness] for photo in photos],
    )
    return Prediction(
        np.stack([hand.keypoints_2d for (hand,) in hands]).astype(np.float64),
        np.stack([hand.joints for (hand,) in hands]).astype(np.float64),
    )


def mean_prediction(photos: Sequence[Any], count: int) -> Any:
    """The mean of the generator's right hands, put into every box."""
    import torch

    from handmim.evaluation.real_photos import mean_hand, predict_mean
    from handmim.synthesis.generator import generate

    # The pictures are not looked at: the smallest will do.
    labels = generate(seed=0, index=range(count), size=32, negatives=0.0).labels
    keep = labels["keypoints_2d"].isfinite().flatten(1).all(1)
    with torch.no_grad():
        relative, local = mean_hand(*(labels[name][keep] for name in ("keypoints_2d", "joints", "global_orient")))
    return predict_mean(photos, relative, local)


def mediapipe_predictions(photos: Sequence[Any], python: str) -> dict[str, Any]:
    """MediaPipe on crops and on whole pictures; of several hands the one nearest to the box's centre."""
    import torch

    from handmim.evaluation.real_photos import Prediction
    from handmim.geometry import affine_points, invert_affine
    from handmim.images import load_image

    pictures = [load_image(photo.image).pixels for photo in photos]
    cut = [mediapipe_crop(photo, picture) for photo, picture in zip(photos, pictures, strict=True)]
    nothing = np.full((len(photos), 21, 3), np.nan)
    crops, whole = (
        Prediction(nothing[..., :2].copy(), nothing.copy()),
        Prediction(nothing[..., :2].copy(), nothing.copy()),
    )
    centre = np.full(2, (MEDIAPIPE_SIZE - 1) / 2)
    for row, found in enumerate(run_mediapipe([crop for crop, _ in cut], python)):
        hand = nearest_hand(found, (MEDIAPIPE_SIZE, MEDIAPIPE_SIZE), centre, MEDIAPIPE_SIZE / MEDIAPIPE_CROP)
        if hand is not None:
            crops.keypoints_2d[row] = affine_points(invert_affine(cut[row][1]), torch.from_numpy(hand[0])).numpy()
            crops.joints[row] = hand[1] * ([-1, 1, 1] if photos[row].handedness == "left" else 1)
    for row, found in enumerate(run_mediapipe(pictures, python)):
        height, width = pictures[row].shape[:2]
        hand = nearest_hand(found, (width, height), photos[row].box_centre, photos[row].box_side)
        if hand is not None:
            whole.keypoints_2d[row], whole.joints[row] = hand
    return {"mediapipe, crop 2.2": crops, "mediapipe, whole picture": whole}


def mediapipe_crop(photo: Any, picture: np.ndarray) -> tuple[np.ndarray, Any]:
    """(S, S, 3) uint8 crop, left hands mirrored, the border's pixels repeated beyond it; and its affine (2, 3)."""
    import torch

    from handmim.geometry import crop_affine
    from handmim.image_processing_handmim import square_crop

    affine = crop_affine(torch.from_numpy(photo.box), MEDIAPIPE_SIZE, photo.handedness == "left", MEDIAPIPE_CROP)
    pad = int(MEDIAPIPE_CROP * photo.box_side)
    shifted = affine.clone()
    shifted[:, 2] -= affine[:, :2].sum(1) * pad
    wide = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    crop = square_crop(wide, shifted.numpy(), MEDIAPIPE_SIZE, (0, 0, 0))
    return np.round(crop).clip(0, 255).astype(np.uint8).transpose(1, 2, 0), affine


def run_mediapipe(pictures: Sequence[np.ndarray], python: str) -> list[list]:
    """For each picture the hands found: (landmarks, world landmarks), each 21 x 3."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "pictures.npz", Path(folder) / "found.json"
        np.savez(source, **{str(row): picture for row, picture in enumerate(pictures)})
        command = [python, "-c", MEDIAPIPE_WORKER, str(source), str(result)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, cwd=folder)
        return json.loads(result.read_text())


def nearest_hand(
    found: list, size: tuple[int, int], centre: np.ndarray, box_side: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """(21, 2) pixels and (21, 3) metres of the hand whose middle is nearest to `centre`, within 0.6 of the box."""
    hands = []
    for landmarks, world in found:
        points = np.array(landmarks)[:, :2] * size - 0.5
        hands.append((np.linalg.norm(points.mean(0) - centre), points, np.array(world)))
    best = min(hands, key=lambda hand: hand[0], default=None)
    return None if best is None or best[0] >= 0.6 * box_side else best[1:]


def print_table(split: str, rows: dict[str, dict[str, Any]]) -> None:
    """One line a method, then the mean error of each source."""
    print(f"\n{split}\n{'':34s}" + "".join(f"{name.replace('mean_error', 'error'):>12s}" for name in COLUMNS))
    for name, figures in rows.items():
        print(f"{name[-34:]:34s}" + "".join(f"{figures.get(key, np.nan):12.4g}" for key in COLUMNS))
    sources = sorted({source for figures in rows.values() for source in figures.get("sources", {})})
    for source in sources:
        parts = {name: figures["sources"][source] for name, figures in rows.items() if "sources" in figures}
        hands = next(iter(parts.values()))["hands"]
        errors = ", ".join(f"{name} {part['mean_error']:.3f}" for name, part in parts.items())
        print(f"  {source} ({hands}): {errors}")


if __name__ == "__main__":
    main()
