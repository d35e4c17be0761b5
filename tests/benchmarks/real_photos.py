r"""Score methods on annotated photographs: our model, MediaPipe, and the mean hand that looks at nothing.

    python tests/benchmarks/real_photos.py --manifest PATH/manifest.json \
        [--model DIR|embedded] [--no-boxes [--detector NAME ...]] [--tta] [--no-mean] \
        [--mediapipe-python PYTHON] [--out COMPARISON.json]

Boxes and sides are given to every method. Our model and the mean hand are those of `handmim evaluate real-photos`,
which gives a full report; with `--no-boxes` the model gets neither and `--detector` finds them. `--tta` adds rows of
the model with test-time augmentation: given boxes and, with `--no-boxes`, those of the last detector. MediaPipe sees
the picture cut to 2.2 times the box, the left hands mirrored (its best case), and the whole picture;
`--mediapipe-python` names an interpreter that has it, which may be another environment. `--out` writes what a model
card shows beside the report of the same samples: model_cards/sources/handmim-tiny-open/real-photos-comparison.json is
of

    --no-mean --no-boxes --tta --model embedded --detector whole-image open-fast open \
        --mediapipe-python PYTHON
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

MEDIAPIPE_CROP, MEDIAPIPE_SIZE = 2.2, 384
MISSED = 0.6  # sides of the labelled box: a hand whose middle is as far from the box's is another one
# Predictions by the name of a row, and what is to be said about them.
Result = tuple[dict[str, Any], str]
# Runs in the other interpreter: pictures of an .npz -> landmarks (in shares of the picture), world landmarks, side.
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
        points = [[[[p.x, p.y, p.z] for p in part.landmark] for part in pair] for pair in both]
        # its sides are those of a mirrored picture
        labels = [entry.classification[0].label for entry in result.multi_handedness or ()]
        sides = ["left" if label == "Right" else "right" for label in labels]
        found.append([[*pair, side] for pair, side in zip(points, sides)])
with open(sys.argv[2], "w") as file:
    json.dump({"version": mediapipe.__version__, "hands": found}, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model", help="checkpoint folder or Hub id, or 'embedded'")
    parser.add_argument("--no-boxes", action="store_true", help="the model gets no boxes, sides and cameras")
    detectors = "of --no-boxes: open, open-fine, open-fast, whole-image, a folder"
    parser.add_argument("--detector", nargs="+", default=["open"], help=detectors)
    parser.add_argument("--tta", action="store_true", help="further rows of the model, with test-time augmentation")
    parser.add_argument("--mediapipe-python", help="interpreter that has mediapipe <= 0.10.21")
    parser.add_argument("--no-mean", action="store_true", help="leave the mean hand out")
    parser.add_argument("--out", type=Path, help="JSON for a model card, see handmim/model_card_comparisons.py")
    args = parser.parse_args()
    from handmim.evaluation.mean_hand import NAME, predict_mean, synthetic_mean_hand
    from handmim.evaluation.real_photos import RealPhotos
    from handmim.evaluation.scoring import collect

    reader = RealPhotos(args.manifest)
    truth = collect(reader)
    methods: dict[str, Callable[[], Result]] = {}
    if not args.no_mean:
        methods["mean hand"] = lambda: ({NAME: predict_mean(truth, *synthetic_mean_hand())}, "")
    if args.model and args.no_boxes:
        for detector in args.detector:
            methods[detector] = partial(whole_picture_prediction, reader, truth, args.model, detector)
    elif args.model:
        methods["model"] = lambda: model_prediction(reader, args.model)
    if args.model and args.tta:
        methods["model, TTA"] = lambda: model_prediction(reader, args.model, tta=True)
        if args.no_boxes:
            methods["TTA"] = partial(whole_picture_prediction, reader, truth, args.model, args.detector[-1], tta=True)
    if args.mediapipe_python:
        methods["mediapipe"] = lambda: mediapipe_predictions(list(reader), truth, args.mediapipe_python)
    figures: dict[str, Any] = {}
    notes = []
    for title, method in methods.items():
        start = time.perf_counter()
        predictions, note = method()
        figures |= {name: scored(truth, prediction) for name, prediction in predictions.items()}
        notes += [note] if note else []
        print(f"{title}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print_tables(figures)
    print("\n".join(notes))
    if args.out:
        content = comparison(reader, truth, figures, notes, args.model)
        args.out.write_text(json.dumps(content, indent=1))


def comparison(reader: Any, truth: Any, figures: dict[str, Any], notes: list[str], model: str | None) -> dict[str, Any]:
    """The figures for a model card; they hold no picture, no label and no path."""
    from handmim.evaluation.report import versions
    from handmim.model_card_comparisons import FORMAT

    return {
        "format": FORMAT,
        "benchmark": reader.name,
        "samples": len(truth),
        "data": {"checksum": truth.checksum, "pictures_checksum": truth.files},
        "methods": figures,
        "notes": notes,
        "versions": versions(),
        "weights": weights(model),
    }


def weights(name: str | None) -> dict[str, str]:
    """SHA-256 of our model's weights by its name, so that figures of other ones are noticed."""
    from handmim.checkpoints import checkpoint_source
    from handmim.model_card_detections import file_checksum

    if name is None:
        return {}
    return {shown(name, tta=False): file_checksum(Path(checkpoint_source(None if name == "embedded" else name)))}


def load(name: str, detector: Any, tta: bool) -> Any:
    """Our model."""
    from handmim import HandMIM

    return HandMIM.from_pretrained(None if name == "embedded" else name, detector=detector, tta=tta)


def shown(name: str, tta: bool) -> str:
    """What a table calls our model."""
    from handmim.checkpoints import EMBEDDED_CHECKPOINT

    return (EMBEDDED_CHECKPOINT.name if name == "embedded" else Path(name).name) + (", TTA" if tta else "")


def model_prediction(reader: Any, name: str, tta: bool = False) -> Result:
    """Our model, with the cameras of the manifest where it has them."""
    from handmim.evaluation.predictions import Predictor, predict
    from handmim.tta import DEFAULT_VIEWS

    model = load(name, "none", tta)
    views = DEFAULT_VIEWS if tta else ()
    predictor = Predictor(model.model, model.image_processor, views, vertices=False)
    return {shown(name, tta): predict(reader, predictor, count=len(reader))}, ""


def whole_picture_prediction(reader: Any, truth: Any, name: str, detector: str, tta: bool = False) -> Result:
    """Our model with nothing but the pictures, as the front door does it: of several hands the one that overlaps the
    labelled box most, unless it is another hand."""
    from handmim.hand_boxes import overlap_of
    from handmim.open_detector import OpenHandDetector

    model = load(name, OpenHandDetector(detector) if Path(detector).is_dir() else detector, tta)
    photos = list(reader)
    prediction = nothing_found(len(photos))
    right, counted = 0, 0
    for row, photo in enumerate(photos):
        best = max(model(photo.image), key=lambda hand: overlap_of(hand.box, photo.box), default=None)
        if best is None or distance(best.keypoints_2d, truth.boxes[row]) >= MISSED * truth.box_sides[row]:
            continue
        prediction.keypoints_2d[row], prediction.joints[row] = best.keypoints_2d, best.joints
        if "keypoints_2d" in photo.labels:
            counted += 1
            right += best.handedness == photo.handedness
    sides = f"its side is right for {right} of the {counted} hands with keypoints that are found"
    if model.pipeline.detector.refine:
        return {f"{shown(name, tta)}, whole picture": prediction}, (
            "In the whole picture, without boxes, sides and cameras, the crop is refined twice and the side is that of "
            f"the better score: {sides}; in pictures with several hands another one than the labelled may be found, "
            "which counts as error 1."
        )
    which = {"open-fine": "fine detector", "open-fast": "fast detector"}.get(detector, "own detector")
    return {f"{shown(name, tta)}, {which}": prediction}, (
        f"With our {which} in place of boxes and sides{', and TTA,' if tta else ''} {sides}; a hand it misses "
        "counts as error 1."
    )


def scored(truth: Any, prediction: Any) -> dict[str, Any]:
    """Figures of all hands, and of each source."""
    from handmim.evaluation.scoring import score

    scores = score(truth, prediction)
    return {"metrics": scores.metrics, "groups": scores.groups}


def nothing_found(count: int) -> Any:
    """Predictions to be filled in; NaN is a hand that was not found."""
    from handmim.evaluation.predictions import Predictions

    nothing = np.full((count, 21, 3), np.nan)
    return Predictions(nothing[..., :2].copy(), nothing.copy())


def mediapipe_predictions(photos: Sequence[Any], truth: Any, python: str) -> Result:
    """MediaPipe on crops and on whole pictures; of several hands the one nearest to the box's centre."""
    import torch

    from handmim.geometry import affine_points, invert_affine
    from handmim.images import load_image

    pictures = [load_image(photo.image).pixels for photo in photos]
    cut = [mediapipe_crop(photo, picture) for photo, picture in zip(photos, pictures, strict=True)]
    crops, whole = nothing_found(len(photos)), nothing_found(len(photos))
    box = np.array([-0.5, -0.5, MEDIAPIPE_SIZE - 0.5, MEDIAPIPE_SIZE - 0.5])
    hands_in_crops, version = run_mediapipe([crop for crop, _ in cut], python)
    for row, found in enumerate(hands_in_crops):
        hand = nearest_hand(found, (MEDIAPIPE_SIZE, MEDIAPIPE_SIZE), box, MEDIAPIPE_SIZE / MEDIAPIPE_CROP)
        if hand is not None:
            crops.keypoints_2d[row] = affine_points(invert_affine(cut[row][1]), torch.from_numpy(hand[0])).numpy()
            crops.joints[row] = hand[1] * ([-1, 1, 1] if photos[row].handedness == "left" else 1)
    for row, found in enumerate(run_mediapipe(pictures, python)[0]):
        height, width = pictures[row].shape[:2]
        hand = nearest_hand(found, (width, height), truth.boxes[row], truth.box_sides[row])
        if hand is not None:
            whole.keypoints_2d[row], whole.joints[row] = hand
    note = (
        f"MediaPipe is version {version}, on a crop of {MEDIAPIPE_CROP} times the box with left hands mirrored, or on "
        "the whole picture; a hand it misses counts as error 1."
    )
    return {"MediaPipe, crop": crops, "MediaPipe, whole picture": whole}, note


def mediapipe_crop(photo: Any, picture: np.ndarray) -> tuple[np.ndarray, Any]:
    """(S, S, 3) uint8 crop, left hands mirrored, the border's pixels repeated beyond it; and its affine (2, 3)."""
    import torch

    from handmim.geometry import crop_affine
    from handmim.image_processing_handmim import square_crop

    affine = crop_affine(torch.from_numpy(photo.box), MEDIAPIPE_SIZE, photo.handedness == "left", MEDIAPIPE_CROP)
    pad = int(MEDIAPIPE_CROP * (photo.box[2:] - photo.box[:2]).max())
    shifted = affine.clone()
    shifted[:, 2] -= affine[:, :2].sum(1) * pad
    wide = np.pad(picture, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    crop = square_crop(wide, shifted.numpy(), MEDIAPIPE_SIZE, (0, 0, 0))
    return np.round(crop).clip(0, 255).astype(np.uint8).transpose(1, 2, 0), affine


def run_mediapipe(pictures: Sequence[np.ndarray], python: str) -> tuple[list[list], str]:
    """For each picture the hands found, landmarks and world landmarks, each 21 x 3, and side; and the version."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "pictures.npz", Path(folder) / "found.json"
        np.savez(source, **{str(row): picture for row, picture in enumerate(pictures)})
        command = [python, "-c", MEDIAPIPE_WORKER, str(source), str(result)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, cwd=folder)
        answer = json.loads(result.read_text())
    return answer["hands"], answer["version"]


def distance(points: np.ndarray, box: np.ndarray) -> float:
    """Pixels between the middle of keypoints (21, 2) and that of a box (4,)."""
    return float(np.linalg.norm(points.mean(0) - box.reshape(2, 2).mean(0)))


def nearest_hand(
    found: list, size: tuple[int, int], box: np.ndarray, box_side: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """(21, 2) pixels and (21, 3) metres of the hand whose middle is nearest to the box's; None if that is another."""
    hands = []
    for landmarks, world, _ in found:
        points = np.array(landmarks)[:, :2] * size - 0.5
        hands.append((distance(points, box), points, np.array(world)))
    best = min(hands, key=lambda hand: hand[0], default=None)
    return None if best is None or best[0] >= MISSED * box_side else best[1:]


def print_tables(figures: dict[str, Any]) -> None:
    """One line a method, then the mean error of each source."""
    from handmim.evaluation.report import table

    columns = ("found", "mean_2d", "mean_2d_found", "pck_2d_05", "pck_2d_10", "pck_2d_20", "auc_2d", "pa_mpjpe")
    print(table({name: parts["metrics"] for name, parts in figures.items()}, columns))
    sources = sorted({source for parts in figures.values() for source in parts["groups"]})
    for source in sources:
        rows = {name: parts["groups"][source] for name, parts in figures.items()}
        print(f"\n{source} ({next(iter(rows.values()))['samples']})\n{table(rows, ('mean_2d', 'pa_mpjpe'))}")


if __name__ == "__main__":
    main()
