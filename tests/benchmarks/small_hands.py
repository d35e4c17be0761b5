"""How few pixels of a hand are enough: annotated photographs, shrunk until the hand's box has so many.

    OMP_NUM_THREADS=1 python tests/benchmarks/small_hands.py --real MANIFEST.json [--model NAME ...] [--sides 96 48 24]

Photographs whose hands are smaller already stay as they are. Boxes are given; sides are for the errors, and are not for
"sides right", which counts the hands that a network's score takes for the side they are of. Errors: 2D over the box's
longer side, PA-MPJPE in mm.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from handmim import HandMIM
from handmim.evaluation.predictions import Predictor, predict
from handmim.evaluation.real_photos import RealPhotos
from handmim.evaluation.scoring import collect, score_2d, score_3d
from handmim.images import load_image
from handmim.training.datasets.boxes import sample_box
from handmim.training.datasets.sample import HandReader, HandSample

SIDES = (96, 64, 48, 32, 24, 16)


class Shrunk(HandReader):
    """The hands of a reader in smaller pictures.

    Args:
        reader: What is shrunk; masks are left out.
        side: Longer side of a hand's box, pixels; None: as it is.
        folder: Where the pictures go.
    """

    name = "real-photos"
    title = "shrunk photographs"
    homepage = ""
    splits = ("all",)

    def __init__(self, reader: HandReader, side: int | None, folder: Path) -> None:
        super().__init__(folder)
        self.samples = [shrunk(sample, side, folder / f"{row}.png") for row, sample in enumerate(reader)]

    @classmethod
    def contents(cls, root: Path) -> list:
        return []

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> HandSample:
        return self.samples[index]


def shrunk(sample: HandSample, side: int | None, file: Path) -> HandSample:
    """A hand in a picture that is as much smaller as makes its box `side` pixels large."""
    sample, box = replace(sample, load_mask=None), sample_box(sample)
    factor = 1.0 if side is None else side / (box[2:] - box[:2]).max()
    if factor >= 1:
        return sample
    picture = Image.fromarray(load_image(sample.image).pixels)
    width, height = (max(1, round(factor * length)) for length in picture.size)
    picture.resize((width, height), Image.Resampling.BILINEAR).save(file)  # Pillow's filters widen: antialiased
    scale = np.array([width, height]) / picture.size

    def moved(points: np.ndarray) -> np.ndarray:
        return (points + 0.5) * scale - 0.5

    labels = dict(sample.labels)
    if "keypoints_2d" in labels:
        labels["keypoints_2d"] = moved(labels["keypoints_2d"])
    camera = sample.intrinsics
    if camera is not None:
        camera = np.diag([*scale, 1.0]) @ camera
        camera[:2, 2] += (scale - 1) / 2
    return replace(sample, image=file, box=moved(box.reshape(2, 2)).ravel(), labels=labels, intrinsics=camera)


def sides_right(model: HandMIM, reader: Shrunk) -> int:
    """How many hands are taken for the side they are of."""
    hands = (model(sample.image, boxes=sample_box(sample))[0] for sample in reader)
    return sum(hand.handedness == sample.handedness for hand, sample in zip(hands, reader, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, metavar="MANIFEST", help="annotated photographs")
    parser.add_argument("--model", nargs="+", default=["handmim-tiny-open", "hiu-dmtl-tiny-open"])
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="px of a hand's box")
    args = parser.parse_args()
    photos = RealPhotos(args.real, "dev")
    for name in args.model:
        model = HandMIM.from_pretrained(name, detector="none")
        predictor = Predictor(model.model, model.image_processor, vertices=False)
        print(f"\n| {name}, box of | 2D | PA-MPJPE | sides right of {len(photos)} |\n|---|---|---|---|")
        for side in (None, *args.sides):
            with tempfile.TemporaryDirectory() as folder:
                reader = Shrunk(photos, side, Path(folder))
                truth = collect(reader, vertices=False)
                found = predict(reader, predictor, count=len(reader), progress=False)
                metrics = score_2d(truth, found).metrics | score_3d(truth, found, (0.0, 50.0)).metrics
                errors = f"{metrics['mean_2d']:.3f} | {metrics['pa_mpjpe']:.1f}"
                size = "its own size" if side is None else f"{side} px"
                print(f"| {size} | {errors} | {sides_right(model, reader)} |", flush=True)


if __name__ == "__main__":
    main()
